"""The options and configs that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.utils import import_modules_from_strings

from ..config_files import config_path
from ..engine import SiameseIMRunner
from ..errors import SimimError
from ..settings import (
    apply_img_size,
    check_forms,
    check_settings,
    fit_channels,
)
from ..text import clean
from .config_errors import add_traceback_option
from .options import add_options, merge


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the training and the testing command.

    They have the names that OpenMMLab's scripts use.
    """
    parser.add_argument('--work-dir', help='folder of logs and results')
    add_options(
        parser, 'override any setting, e.g. train_dataloader.batch_size=64'
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='launcher of the processes',
    )
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='print all of the log file on the terminal, too',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    add_traceback_option(parser)


def find_config(name: str | Path) -> Config:
    """Read a config by its file or its packaged name.

    Raises:
        FileNotFoundError: for an unknown config.
        SimimError: if its ``img_size`` cannot reach every place of the size.
    """
    found = os.path.isfile(name)  # False for a name that is too long
    config = Config.fromfile(name if found else config_path(str(name)))
    apply_img_size(config)
    return config


def read_config(args: argparse.Namespace) -> Config:
    """Read the config of a command, and set its launcher and work_dir.

    Raises:
        FileNotFoundError: for an unknown config.
        SimimError: for control characters in the name of either.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config = find_config(args.config)
    config.launcher = args.launcher
    if args.verbose:
        config.log_level = 'DEBUG'
    config.work_dir = (
        args.work_dir
        or config.get('work_dir')
        or os.path.join('work_dirs', Path(args.config).stem)
    )
    for name in (Path(args.config).name, config.work_dir):
        if clean(name) != name:  # it would reach logs of other libraries
            raise SimimError(
                f'The name {name} holds control characters; rename the '
                'config, or choose another --work-dir.'
            )
    return config


def apply_options(config: Config, args: argparse.Namespace) -> None:
    """Merge ``--cfg-options``, then adapt the data loaders to the machine."""
    merge(config, args.cfg_options)
    check_forms(dict(config.items()))
    if any(key.startswith('custom_imports') for key in args.cfg_options):
        import_modules_from_strings(**config.custom_imports)
    adapt_loaders(config)


def adapt_loaders(config: Config) -> None:
    """Adapt the data loaders to the machine and their workers, in place."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if loader:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            if loader.get('num_workers', 0) == 0:
                loader.persistent_workers = False


def check_config(name: str, options: Mapping[str, str]) -> None:
    """Check the settings of a config before a command trains with it.

    Args:
        name (str): file or packaged name of the config.
        options (Mapping[str, str]): of ``--cfg-options``, by dotted keys.

    Raises:
        SimimError: for an option that the config cannot take, or a wrong
            setting.
    """
    config = find_config(name)
    merge(config, options)
    check_merged(config)


def check_merged(config: Config) -> None:
    """Check the settings of a config that has its options already.

    Args:
        config (Config): its sizes and loaders are adapted as before a run.

    Raises:
        SimimError: for a wrong setting.
    """
    adapt_loaders(config)
    apply_img_size(config)
    fit_channels(config)
    check_settings(dict(config.items()), config.text)


def build_runner(config: Config) -> SiameseIMRunner:
    """Build our Runner, or the subclass of it that the config names.

    Another one would unpickle the checkpoints that it reads.
    """
    name = config.get('runner_type', 'SiameseIMRunner')
    named = RUNNERS.get(name)
    if named is None:
        raise SimimError(
            f'There is no {name!r} for runner_type; set it to SiameseIMRunner.'
        )
    ours = isinstance(named, type) and issubclass(named, SiameseIMRunner)
    return (named if ours else SiameseIMRunner).from_cfg(config)
