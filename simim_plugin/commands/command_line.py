"""The options and configs that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..config_files import config_path
from .config_errors import add_traceback_option


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the training and the testing command.

    They have the names that OpenMMLab's scripts use.
    """
    parser.add_argument('--work-dir', help='folder of logs and results')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override any setting, e.g. train_dataloader.batch_size=64',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='launcher of the processes',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    add_traceback_option(parser)


def find_config(name: str | Path) -> Config:
    """Read a config by its file or its packaged name.

    Raises:
        FileNotFoundError: for an unknown config.
    """
    file = Path(name)
    return Config.fromfile(file if file.is_file() else config_path(str(name)))


def read_config(args: argparse.Namespace) -> Config:
    """Read the config of a command, and set its launcher and work_dir.

    Raises:
        FileNotFoundError: for an unknown config.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config = find_config(args.config)
    config.launcher = args.launcher
    config.work_dir = (
        args.work_dir
        or config.get('work_dir')
        or os.path.join('work_dirs', Path(args.config).stem)
    )
    return config


def apply_options(config: Config, args: argparse.Namespace) -> None:
    """Merge ``--cfg-options``, then adapt the data loaders to the machine."""
    if args.cfg_options is not None:
        config.merge_from_dict(args.cfg_options)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if loader:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            if loader.get('num_workers', 0) == 0:
                loader.persistent_workers = False


def build_runner(config: Config) -> Runner:
    """Build the Runner that the config names, else mmengine's."""
    if 'runner_type' in config:
        return RUNNERS.build(config)
    return Runner.from_cfg(config)
