"""TIFF files of many channels, and those that Pillow misreads.

Pillow takes the lower bytes of planes of 16 bits and signed levels for
unsigned ones, leaves white as the lowest level where there are more than 8
bits, and knows no floats but those of 32 bits in grey.

Shape key: H rows, W columns, N channels.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from ..environment import require
from .orientation import TIFF, array_of_pages, header_of, stated_turn, turn

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANES = 258, 262, 277, 284  # tags
_DESCRIPTION, _EXTRA, _FORMAT = 270, 338, 339
_SIGNED = 2
_ALPHA = ((1,), (2,))
"""What the one extra channel of a page is: alpha, multiplied in or not."""


def is_tiff(data: bytes) -> bool:
    """Return whether a file is a TIFF, by its first bytes."""
    return data.startswith(TIFF)


def read_stack(
    data: bytes, channels: int = 0, all_pages: bool = True
) -> tuple[np.ndarray, int]:
    """Read all channels of a TIFF upright, (H, W, N), and its orientation.

    By default tifffile writes an array (H, W, N) as H pages of (W, N). Such a
    file is read as (H, W, N) if N, and not H, is the number of channels.

    Args:
        data (bytes): the file.
        channels (int): the number that the config asks for, 0 for any.
        all_pages (bool): pages are channels, too. Otherwise the first one is
            read, without the alpha of a grey. Defaults to True.
    """
    require('reading of more than three channels')
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first = file.pages[0]
        array = array_of_pages(first.description, first.shape[:2])
        pages = file.series[0] if all_pages or array else first
        levels, axes = pages.asarray(), pages.axes
        orientation = stated_turn(first.tags)
        white, extra = first.photometric == 0, first.extrasamples
        top = 2**first.bitspersample - 1
    for kind in 'YX':
        if axes.count(kind) != 1:
            raise ValueError(f'a TIFF of axes {axes} is no image')
    rows, columns = axes.index('Y'), axes.index('X')
    if levels.shape == array or (
        axes == 'QYX' and levels.shape[2] == channels != levels.shape[0]
    ):
        rows, columns = 0, 1
    levels = np.moveaxis(levels, (rows, columns), (0, 1))
    levels = levels.reshape(*levels.shape[:2], -1)
    if white and levels.dtype.kind == 'u':
        levels = levels.dtype.type(top) - levels
    if not all_pages and levels.shape[2] == 2 and extra in _ALPHA:
        levels = levels[..., :1]
    return turn(levels, orientation), orientation


def read_rare(data: bytes, channels: int) -> tuple[np.ndarray, int] | None:
    """Read a TIFF that Pillow misreads or does not know.

    Args:
        data (bytes): any image file.
        channels (int): 1 or 3, for the error.

    Returns:
        tuple: levels (H, W), (H, W, 3) or (H, W, 4), upright, and the
        orientation; None for files that Pillow reads.

    Raises:
        ValueError: if the file has another number of channels.
    """
    if not is_tiff(data):
        return None
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        pass
    else:
        bits = _tag(image, _BITS)
        if _tag(image, _PHOTOMETRIC) == 0 and image.mode.startswith('I'):
            orientation = header_of(image).orientation  # loading drops it
            return 2**bits - 1 - np.asarray(image), orientation
        stated, samples = stated_channels(image), _tag(image, _SAMPLES)
        stacked = stated not in (None, 4 if samples == 4 else None)
        planes = _tag(image, _PLANES) == 2 and samples > 1
        signed = _tag(image, _FORMAT) == _SIGNED
        deep_planes, signed_bytes = planes and bits > 8, signed and bits == 8
        if not (stacked or deep_planes or signed_bytes):
            return None
    levels, orientation = read_stack(data, all_pages=False)
    if levels.shape[2] not in (1, 3, 4):
        raise ValueError(
            f'it has {levels.shape[2]} channels, and channels={channels} of '
            'LoadRGBImage'
        )
    return levels[..., 0] if levels.shape[2] == 1 else levels, orientation


def stated_channels(image: Any) -> int | None:
    """Return the channels of a TIFF that are no grey, colours or alpha.

    Pillow leaves out all but the first, or the first three.

    Args:
        image (PIL.Image.Image): an opened file of any format.

    Returns:
        int | None: None for grey and RGB, with or without alpha.
    """
    if image.format != 'TIFF':
        return None
    page = _tag(image, 257), _tag(image, 256)
    array = array_of_pages(image.tag_v2.get(_DESCRIPTION), page)
    if array is not None:
        return array[2]
    samples = _tag(image, _SAMPLES)
    no_alpha = samples in (2, 4) and _tag(image, _EXTRA) == 0
    return samples if samples > 4 or no_alpha else None


def _tag(image: Any, number: int) -> int:
    """Return the first value of a tag, 1 if it is missing."""
    value = image.tag_v2.get(number, 1)
    return value[0] if isinstance(value, tuple) else value
