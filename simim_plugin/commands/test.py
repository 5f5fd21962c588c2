"""Test a checkpoint of any config."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process

from ..errors import SimimError
from ..files import write_json
from .command_line import (
    add_common_options,
    apply_options,
    build_runner,
    read_config,
)
from .config_errors import explained_errors

_TRAINING = (
    'train_cfg',
    'train_dataloader',
    'optim_wrapper',
    'param_scheduler',
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with explained_errors(argv):
        args = parse_args(argv)
        runner = build_runner(configure(args))
        if args.show_dir and runner.world_size > 1:
            raise SimimError(
                f'--show-dir draws the pictures of one process, and '
                f'{runner.world_size} test; leave out --launcher, or '
                '--show-dir.'
            )
        metrics = runner.test()
        if args.out is not None and is_main_process():
            write_json(args.out, plain_numbers(metrics))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options of OpenMMLab's testing scripts."""
    parser = argparse.ArgumentParser(description='Test a model.')
    parser.add_argument('config', help='config file, or a packaged name')
    parser.add_argument('checkpoint', help='weights to test')
    add_common_options(parser)
    parser.add_argument(
        '--out', type=Path, metavar='FILE', help='JSON file for the metrics'
    )
    parser.add_argument(
        '--show-dir',
        metavar='FOLDER',
        help='draw the predictions into this folder',
    )
    return parser.parse_args(argv)


def configure(args: argparse.Namespace) -> Config:
    """Read the config and merge the command line into it.

    Raises:
        FileNotFoundError: for an unknown config.
        SimimError: if the test draws nothing.
    """
    config = read_config(args)
    config.load_from = args.checkpoint
    config.resume = False  # True in the config of a resumed run
    apply_options(config, args)
    if args.show_dir:
        draw_into(config, args.show_dir)
    return config


def draw_into(config: Config, folder: str) -> None:
    """Enable the library's own visualization hook.

    Args:
        config (Config): of a classifier, detector or segmentor.
        folder (str): of the pictures; MMDetection puts it into the folder of
            the run.

    Raises:
        SimimError: if the test draws nothing.
    """
    hook = config.get('default_hooks', {}).get('visualization')
    loop = (config.get('test_cfg') or {}).get('type')
    if hook is None or loop == 'FrozenFeatureLoop':
        raise SimimError(
            'The test of this config draws no pictures: leave out --show-dir.'
        )
    scope = config.get('default_scope')
    if scope == 'mmdet':
        hook.update(draw=True, test_out_dir=folder)
    elif scope == 'mmseg':
        hook.update(draw=True)
        config.visualizer.save_dir = folder
        # Upstream's hook asks for the training iteration, and so would build
        # the training set.
        for key in _TRAINING:
            config[key] = None
    else:
        kind = 'mmpretrain.NamedPicturesHook'
        hook.update(type=kind, enable=True, out_dir=folder)


def plain_numbers(metrics: dict) -> dict[str, Any]:
    """Return metrics for JSON, with None in place of NaN.

    Args:
        metrics (dict): numbers, or arrays, tensors and lists of them.
    """
    return {name: _plain(value) for name, value in metrics.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return float(value) if math.isfinite(value) else None
