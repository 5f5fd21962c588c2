"""Name the files that cannot be read, and measure the levels of many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
from mmengine import fileio
from PIL import Image

from ..errors import SimimError, Trouble
from ..files import check_regular
from .archives import list_archive, read_member, split_archive
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
            f'`skip_broken=0.01`; see {Trouble.UNREADABLE}.'
        ) from error


def read_file(
    path: str,
    member: Sequence[int] | None = None,
    backend_args: dict | None = None,
) -> bytes:
    """Read a file, also one of an archive (``ARCHIVE/INNER/NAME``).

    Args:
        path (str): local, or of a backend of mmengine.
        member (Sequence[int], optional): its place in the archive, see
            :class:`simim_plugin.pictures.archives.Member`. Defaults to None:
            found in the index of the archive.
        backend_args (dict, optional): as in ``mmengine.fileio.get``.

    Raises:
        OSError: if it cannot be read.
    """
    inside = split_archive(path)
    if inside is None:
        check_regular(path)
        return fileio.get(path, backend_args=backend_args)
    archive, name = inside
    if member is None:
        member = list_archive(archive).get(name)
    if member is None:
        raise FileNotFoundError('no such picture in the archive')
    return read_member(archive, member)


def window_of(
    info_of: Callable[[int], dict], count: int, channels: int = 3
) -> Window | None:
    """Measure the window of a set on 64 evenly spaced images.

    Args:
        info_of (Callable): from the index of an image to its ``img_path``,
            and ``member`` in an archive.
        count (int): images of the set.
        channels (int): of the images. Defaults to 3.

    Returns:
        tuple[float, float] | None: None if they have 8 bits a level.
    """
    levels = []
    for k in np.linspace(0, count - 1, min(64, count)).astype(int):
        info = info_of(int(k))
        path = info['img_path']
        with suppress(UnreadableImageError), naming(path):
            data = read_file(path, info.get('member'))
            levels.append(read_levels(data, channels))
    return measured_window(levels)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return 'no image format that Pillow knows'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip('.') or type(error).__name__
