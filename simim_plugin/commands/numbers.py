"""The numbers that options take."""

from __future__ import annotations

import argparse
from collections.abc import Callable

MOST_SEED = 2**32 - 1
"""Largest seed of NumPy's generator."""


def whole(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """Return the ``type`` of an option that takes a whole number.

    Args:
        least (int): smallest number. Defaults to 1.
        most (int, optional): largest number. Defaults to None: any.
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            end = '' if most is None else f' to {most}'
            raise argparse.ArgumentTypeError(
                f'{text} is not a whole number from {least}{end}'
            )
        return value

    return read


seed_number = whole(0, MOST_SEED)
"""The ``type`` of an option that takes a seed."""


def share(text: str) -> float:
    """Read the number of an option from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1')
    return value
