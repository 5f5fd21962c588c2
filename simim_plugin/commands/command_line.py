"""What the training and the testing command have in common."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..config_files import config_path


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options that OpenMMLab's scripts share, with their names."""
    parser.add_argument('--work-dir', help='folder for logs and results')
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
        help='how several processes were started',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def read_config(args: argparse.Namespace) -> Config:
    """The config that the command names, a file or a packaged one.

    Raises:
        FileNotFoundError: for an unknown config.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    file = Path(args.config)
    config = Config.fromfile(
        file if file.is_file() else config_path(args.config)
    )
    config.launcher = args.launcher
    config.work_dir = (
        args.work_dir
        or config.get('work_dir')
        or os.path.join('work_dirs', file.stem)
    )
    return config


def apply_options(config: Config, args: argparse.Namespace) -> None:
    """Merge ``--cfg-options``, then settle what depends on the machine."""
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
    """The Runner that the config names, mmengine's if it names none."""
    if 'runner_type' in config:
        return RUNNERS.build(config)
    return Runner.from_cfg(config)
