"""Convert the weights of a ViT to the format of another library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmpretrain.registry import MODELS

from ..checkpoint import load_weights
from ..checkpoint.adapters import adapted, merged
from ..checkpoint.export import WRITERS, convert
from ..errors import SimimError, one_line_errors
from .command_line import find_config


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parse_args(argv)
    with one_line_errors():
        report = convert(
            args.source,
            args.out,
            args.to,
            branch=args.branch,
            num_heads=args.num_heads,
            entry=args.entry,
            grid=args.grid and tuple(args.grid),
            content=args.config and merged_content(args.config, args.source),
        )
    print(report)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        description='Convert the weights of a ViT, and check that the '
        'result computes the same features.'
    )
    parser.add_argument(
        'source', metavar='IN', help='checkpoint of any known format'
    )
    parser.add_argument('out', metavar='OUT', help='file or folder to write')
    parser.add_argument(
        '--to',
        choices=list(WRITERS),
        required=True,
        help='plugin: the weights of all parts; slim: the encoder only; '
        'hf writes a folder',
    )
    parser.add_argument(
        '--branch',
        choices=['online', 'target', 'student', 'teacher'],
        default='online',
        help='the encoder to convert, of a file with two',
    )
    parser.add_argument(
        '--entry',
        metavar='NAME',
        help='entry of the file, such as model_ema, or prefix of its names',
    )
    parser.add_argument(
        '--num-heads', type=int, help='attention heads, for unusual widths'
    )
    parser.add_argument(
        '--grid',
        type=int,
        nargs=2,
        metavar=('ROWS', 'COLUMNS'),
        help='patches of learned positions that are no square',
    )
    parser.add_argument(
        '--config',
        help='of the run that trained adapters (LoRA), to merge them into '
        'the encoder',
    )
    return parser.parse_args(argv)


def merged_content(config: str, file: str) -> dict[str, Any]:
    """Return the content of a file whose adapters are merged.

    Args:
        config (str): of the run, a file or a packaged name.
        file (str): the checkpoint.

    Raises:
        SimimError: if the config has no adapters.
    """
    model = MODELS.build(find_config(config).model)
    if not list(adapted(model)):
        raise SimimError(
            f'The config {config} has no LoRAModel, so there is nothing to '
            'merge; leave out --config.'
        )
    load_weights(model, file)
    return dict(state_dict=merged(model))
