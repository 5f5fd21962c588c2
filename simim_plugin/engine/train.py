"""The training command: a config and some options to a running Runner."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from ..errors import SimimError, told_in_a_sentence
from ..packaged import config_path


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; errors meant for the user end in one line."""
    with told_in_a_sentence():
        args = parse_args(argv)
        train(configure(args))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options as MMPretrain's training script has them, and --pretrained."""
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', help='config file, or a packaged name')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='continue the same run, from its latest checkpoint or FILE',
    )
    parser.add_argument(
        '--pretrained',
        metavar='FILE',
        help='start a new run from these weights (ours or released ones)',
    )
    parser.add_argument(
        '--amp', action='store_true', help='bf16 autocast, on a CPU too'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the lr to the batch (pretraining configs always do)',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='never evaluate'
    )
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
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def configure(args: argparse.Namespace) -> Config:
    """Merge the command line into the config.

    Raises:
        SimimError: for an unknown config, or float16 without a GPU.
    """
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
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.resume is not None:
        config.resume = True
        config.load_from = None if args.resume == 'auto' else args.resume
    if args.pretrained is not None:
        config.model.pretrained = args.pretrained
    if args.auto_scale_lr:
        config.auto_scale_lr.enable = True
    if args.amp:
        for key in ('loss_scale', 'dtype'):
            config.optim_wrapper.pop(key, None)
        config.optim_wrapper.update(type='AutocastOptimWrapper', on_cpu=True)
    if args.cfg_options is not None:
        config.merge_from_dict(args.cfg_options)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if loader:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            if loader.get('num_workers', 0) == 0:
                loader.persistent_workers = False
    scaled = config.optim_wrapper.get('type') == 'AmpOptimWrapper'
    if scaled and not torch.cuda.is_available():
        raise SimimError(
            f'The config {args.config} trains in float16 with a gradient '
            'scaler, which needs a GPU; add --amp to train in bfloat16.'
        )
    return config


def train(config: Config) -> nn.Module:
    """Build the Runner that the config names, run it, return the model."""
    if 'runner_type' in config:
        runner = RUNNERS.build(config)
    else:
        runner = Runner.from_cfg(config)
    return runner.train()
