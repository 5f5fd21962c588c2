"""Train a model of any config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from mmengine.config import Config

from ..errors import SimimError
from .command_line import (
    add_common_options,
    apply_options,
    build_runner,
    read_config,
)
from .config_errors import explained_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with explained_errors(argv):
        build_runner(configure(parse_args(argv))).train()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options of MMPretrain's training script and our own."""
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', help='config file, or a packaged name')
    add_common_options(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='continue the same run, from its latest checkpoint or FILE',
    )
    parser.add_argument(
        '--restart-epoch',
        action='store_true',
        help='with --resume: repeat the interrupted epoch from its start, '
        'required for another number of processes or images per step',
    )
    parser.add_argument(
        '--extend',
        action='store_true',
        help='with --resume: recompute the schedules over another '
        'train_cfg.max_epochs',
    )
    parser.add_argument(
        '--accept-changes',
        action='store_true',
        help='with --resume: go on with the settings that have changed',
    )
    parser.add_argument(
        '--pretrained',
        metavar='FILE',
        help='start a new run from these weights (ours or released ones)',
    )
    parser.add_argument(
        '--adapt-channels',
        choices=('mean', 'repeat'),
        help='with --pretrained: adapt its patch kernels to in_channels',
    )
    parser.add_argument(
        '--amp', action='store_true', help='bf16 autocast, on a CPU too'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the lr to the batch (our configs always do)',
    )
    parser.add_argument(
        '--relist',
        action='store_true',
        help='list the images anew, and forget the list that was kept',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='never evaluate'
    )
    return parser.parse_args(argv)


def configure(args: argparse.Namespace) -> Config:
    """Read the config and merge the command line into it.

    Raises:
        FileNotFoundError: for an unknown config.
        SimimError: for float16 without a GPU, or for an option that needs
            --resume.
    """
    config = read_config(args)
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.relist:
        config.relist = True
    _set_resume(config, args)
    _set_pretrained(config, args)
    if args.auto_scale_lr:
        config.auto_scale_lr.enable = True
    if args.amp:
        for key in ('loss_scale', 'dtype'):
            config.optim_wrapper.pop(key, None)
        # With its scope: that of detection and segmentation is another.
        config.optim_wrapper.update(
            type='mmpretrain.AutocastOptimWrapper', on_cpu=True
        )
    apply_options(config, args)
    wrapper = config.get('optim_wrapper') or {}
    scaled = wrapper.get('type') == 'AmpOptimWrapper'
    if scaled and not torch.cuda.is_available():
        raise SimimError(
            f'The config {args.config} trains in float16 with a gradient '
            'scaler, which needs a GPU; add --amp to train in bfloat16.'
        )
    return config


def _set_resume(config: Config, args: argparse.Namespace) -> None:
    """Set whether and how a run continues."""
    if args.resume is not None:
        config.resume = True
        config.load_from = None if args.resume == 'auto' else args.resume
    for name in ('restart_epoch', 'extend', 'accept_changes'):
        if getattr(args, name) and not config.get('resume'):
            raise SimimError(
                f'--{name.replace("_", "-")} changes how a run continues; add '
                '--resume, or leave it out.'
            )
    if args.restart_epoch:
        config.train_cfg.restart_epoch = True
    for name in ('extend', 'accept_changes'):
        if getattr(args, name):
            config[name] = True


def _set_pretrained(config: Config, args: argparse.Namespace) -> None:
    """Set the weights that a new run starts from."""
    if args.pretrained is not None:
        # Pretraining loads all its parts, a classifier its backbone alone.
        whole = 'projector' in config.model
        part = config.model if whole else config.model.backbone
        part.pretrained = args.pretrained
        if args.adapt_channels:
            part.pretrained = dict(
                file=args.pretrained, channels=args.adapt_channels
            )
    elif args.adapt_channels:
        raise SimimError(
            '--adapt-channels changes the weights that --pretrained names; '
            'add --pretrained, or leave it out.'
        )
