"""Convert the weights of a ViT to the format of another library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..checkpoint.export import WRITERS, convert
from ..errors import one_line_errors


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
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
    args = parser.parse_args(argv)
    with one_line_errors():
        report = convert(
            args.source,
            args.out,
            args.to,
            branch=args.branch,
            num_heads=args.num_heads,
            entry=args.entry,
        )
    print(report)
