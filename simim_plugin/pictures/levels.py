"""Grey levels of any depth as 8 bits, by one rule for a whole set.

Shape key: H rows, W columns, C channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from mmengine.logging import print_log

from ..errors import SimimError
from ..text import clean

Window = tuple[float, float]
"""The levels that become 0 and 255."""

PERCENTILES = (0.5, 99.5)
"""Percentiles of a set that make its window."""

_SIXTEEN = 65535
_warned: set[str] = set()


def check_window(window: Any) -> Window:
    """Return ``window`` as two floats.

    Raises:
        SimimError: if it is not a low and a higher level.
    """
    try:
        low, high = map(float, window)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not low < high:
        raise SimimError(
            f'window={window!r} of the loader is not a low and a higher '
            'level; set it as in window=(0, 4095).'
        )
    return low, high


def given_window(window: Any) -> Any:
    """Return ``window`` of a loader: None, 'percentiles' or two floats.

    Raises:
        SimimError: see :func:`check_window`.
    """
    if window is None or window == 'percentiles':
        return window
    return check_window(window)


def check_measured(window: Any) -> None:
    """Refuse a window that no training set has measured.

    Raises:
        SimimError: if it is still 'percentiles'.
    """
    if window == 'percentiles':
        raise SimimError(
            "window='percentiles' of the loader is measured on the training "
            'set of a run; elsewhere use the config.py that the run wrote, '
            'or set the two levels that it printed, as in window=(0, 4095).'
        )


def to_eight_bits(
    levels: np.ndarray, window: Window | None, name: str
) -> np.ndarray:
    """Return levels of any type as uint8.

    Without a window 8-bit levels stay, and others count as 16 bits, of which
    the upper byte is taken.

    Args:
        levels (numpy.ndarray): (H, W) or (H, W, C).
        window (tuple[float, float], optional): the levels that become 0 and
            255; levels outside are clipped, and NaN becomes 0. 8-bit levels
            have no window.
        name (str): of the picture, for messages.

    Raises:
        ValueError: without a window, if levels are floats, negative, or of
            more than 16 bits. The message is a clause with the fix.
    """
    if levels.dtype == np.bool_:
        return levels.astype(np.uint8) * 255
    if levels.dtype == np.uint8:
        return levels
    if window is not None:
        low, high = window
        shares = (levels.astype(np.float32) - low) / (high - low)
        return (np.nan_to_num(shares).clip(0, 1) * 255).round().astype('u1')
    finite = levels[np.isfinite(levels)]
    lowest, highest = (finite.min(), finite.max()) if finite.size else (0, 0)
    if levels.dtype.kind not in 'iu' or lowest < 0 or highest > _SIXTEEN:
        kind = 'integers' if levels.dtype.kind in 'iu' else 'floats'
        raise ValueError(
            f'its levels are {kind} from {lowest:g} to {highest:g}, set '
            'window=(low, high) of LoadRGBImage to the levels that become '
            'black and white'
        )
    if levels.dtype == np.int8:
        return levels.astype(np.uint8)
    _warn_of_darkness(levels, int(highest), name)
    return (levels >> 8).astype(np.uint8)


def measured_window(pictures: Iterable[np.ndarray]) -> Window | None:
    """Return the window of a set: percentiles of the levels of pictures.

    Args:
        pictures (Iterable[numpy.ndarray]): levels of a sample of the set.

    Returns:
        tuple[float, float] | None: None if all of them have 8 bits.
    """
    draw = np.random.default_rng(0)
    samples = [
        draw.choice(levels[np.isfinite(levels)], 10_000)
        for levels in pictures
        if levels.dtype != np.uint8 and np.isfinite(levels).any()
    ]
    if not samples:
        return None
    low, high = np.percentile(np.concatenate(samples), PERCENTILES)
    return float(low), float(max(high, low + 1e-6 * max(1.0, abs(low))))


def _warn_of_darkness(levels: np.ndarray, highest: int, name: str) -> None:
    """Warn once for each type that levels use little of the 16 bits."""
    bright = np.count_nonzero(levels >= 2**14)
    kind = f'{levels.dtype.itemsize * 8} bits'
    if highest == 0 or bright * 1000 >= levels.size or kind in _warned:
        return
    _warned.add(kind)
    fit = 2 ** highest.bit_length() - 1
    print_log(
        f'{clean(name)} has {kind} a level, and levels from '
        f'{int(levels.min())} to {highest} of {_SIXTEEN}: it is almost black '
        f'as 8 bits. If the set is like that, set window=(0, {fit}) of '
        'LoadRGBImage.',
        logger='current',
        level=logging.WARNING,
    )
