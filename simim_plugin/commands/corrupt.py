"""Corrupt a clean validation set as ImageNet-C was made from ImageNet.

    python tools/make_corruptions.py data/demo/val data/demo-c
    python tools/make_corruptions.py data/cifar10 data/cifar10-c

:mod:`simim_plugin.datasets.corruptions` describes the layout of the folder.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ..datasets.corruptions import make_corruptions
from ..errors import one_line_errors
from ..text import clean
from .numbers import whole


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description='Write the 15 corruptions of ImageNet-C at 5 severities '
        'of a folder of images by class.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        'clean', help='folder of CLASS/*.jpg, or of cifar-10-batches-py'
    )
    parser.add_argument('out', help='folder to make')
    parser.add_argument(
        '--size',
        type=int,
        help='resize and centre-crop first, e.g. 224 for ImageNet',
    )
    parser.add_argument('--seed', type=int, default=0, help='at least 0')
    parser.add_argument(
        '--workers',
        type=whole(0),
        default=os.cpu_count(),
        help='processes; 0 works in this one',
    )
    args = parser.parse_args(argv)
    with one_line_errors():
        written = make_corruptions(
            args.clean,
            args.out,
            size=args.size,
            seed=args.seed,
            num_workers=args.workers,
        )
    print(clean(f'{args.out}: {"written" if written else "up to date"}.'))
