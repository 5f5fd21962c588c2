"""Make the demo data: small labelled scenes for every task.

    python tools/make_demo_data.py data/demo --train 5000 --val 1000

:mod:`simim_plugin.demo.data` describes the layout of the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..demo.data import make_demo_data
from ..errors import one_line_errors
from ..text import clean


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description='Make small labelled scenes with annotations for '
        'classification, detection and segmentation.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('out', help='folder to make')
    parser.add_argument(
        '--train', type=int, default=5000, help='training images'
    )
    parser.add_argument(
        '--val', type=int, default=1000, help='validation images'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        default=[64],
        help='side, or height and width, in pixels',
    )
    parser.add_argument('--seed', type=int, default=0, help='at least 0')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace demo data made with other arguments',
    )
    args = parser.parse_args(argv)
    if len(args.size) > 2:
        parser.error('--size takes one number, or height and width.')
    with one_line_errors():
        written = make_demo_data(
            args.out,
            train=args.train,
            val=args.val,
            size=(args.size[0], args.size[-1]),
            seed=args.seed,
            overwrite=args.overwrite,
        )
    print(clean(f'{args.out}: {"written" if written else "up to date"}.'))
