"""Name the files that cannot be read, and measure the levels of many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
from mmengine import fileio
from PIL import Image

from ..errors import SimimError
from ..files import check_regular
from .levels import Window, measured_window
from .reading import read_levels


class UnreadableImageError(SimimError):
    """An image file that cannot be read; the message names it."""


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn any error into an :class:`UnreadableImageError` of a file."""
    try:
        yield
    # Decoders raise many types, from OSError to struct.error.
    except Exception as error:
        raise UnreadableImageError(
            f'Cannot read the image {path} ({_reason(error)}): replace or '
            'remove the file, or skip such files of a training set with '
            '`skip_broken=0.01`.'
        ) from error


def window_of(
    path_of: Callable[[int], str],
    count: int,
    channels: int = 3,
    most: int = 64,
) -> Window | None:
    """Measure the window of a set on evenly spaced images.

    Args:
        path_of (Callable): from the index of an image to its file.
        count (int): images of the set.
        channels (int): of the images. Defaults to 3.
        most (int): images to read. Defaults to 64.

    Returns:
        tuple[float, float] | None: None if they have 8 bits a level.
    """
    levels = []
    for k in np.linspace(0, count - 1, min(most, count)).astype(int):
        path = path_of(int(k))
        with suppress(UnreadableImageError), naming(path):
            check_regular(path)
            levels.append(read_levels(fileio.get(path), channels))
    return measured_window(levels)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return 'no image format that Pillow knows'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip('.') or type(error).__name__
