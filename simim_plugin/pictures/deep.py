"""Levels of more than 8 bits, as their file stores them.

Pillow keeps the upper bytes of colours, and scales PNM and JPEG 2000 files
from the highest level that they state to 16 bits.

Shape key: H rows, W columns, C channels.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from .levels import Window

_BITS, _FORMAT = 258, 339  # tags of TIFF


def deep_levels(
    image: Image.Image, data: bytes
) -> tuple[np.ndarray, Window | None] | None:
    """Return the levels of a file, and the window that it states.

    Args:
        image (PIL.Image.Image): the opened file, its pixels unread.
        data (bytes): the file.

    Returns:
        tuple | None: levels (H, W) or (H, W, C), colours as RGB, alpha last;
        0 and the highest level of a PNM or JPEG 2000 file. None if the file
        has 8 bits or fewer.

    Raises:
        Exception: any error of Pillow for a damaged file; a ValueError for
            one that OpenCV does not read.
    """
    top = stated_top(image, data)
    depth = _depth_of_colours(image)
    if top is not None and top > 255:
        return stored_levels(image, data), (0.0, float(top))
    if image.mode == 'F' or image.mode.startswith('I'):
        levels = np.asarray(image)
        # Pillow takes unsigned levels of 32 bits for signed ones.
        unsigned = levels.dtype == np.int32 and _unsigned(image)
        return levels.view(np.uint32) if unsigned else levels, None
    if depth is None:
        return None
    levels = stored_levels(image, data)
    # OpenCV repeats the grey.
    return levels[..., [0, 3]] if depth == 'LA' else levels, None


def stored_levels(image: Image.Image, data: bytes) -> np.ndarray:
    """Return the levels of a file without Pillow's scale.

    Args:
        image (PIL.Image.Image): the opened file, its pixels unread.
        data (bytes): the file.

    Returns:
        numpy.ndarray: (H, W) or (H, W, C), colours as RGB, alpha last.

    Raises:
        Exception: see :func:`deep_levels`.
    """
    top = stated_top(image, data) or 0
    if image.format == 'PPM' and top <= 255:  # OpenCV scales texts
        return np.rint(np.asarray(image) * (top / 255)).astype(np.uint8)
    if image.format == 'PPM':
        data += b'\n'  # OpenCV wants it after the last number of a text
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None:
        image.load()  # names the damage
        raise ValueError(
            'OpenCV does not read its levels, save it as PNG or TIFF'
        )
    if levels.ndim == 3:
        levels = levels[..., [2, 1, 0, 3][: levels.shape[2]]]
    return levels


def stated_top(image: Image.Image, data: bytes) -> int | None:
    """Return the highest level that a PNM or JPEG 2000 file states.

    Pillow makes 255 or 65,535 of it.

    Args:
        image (PIL.Image.Image): the opened file, its pixels unread.
        data (bytes): the file.

    Returns:
        int | None: None for other files, and for what Pillow does not scale.
    """
    if image.format == 'PPM':
        codec, *_, stated = next(iter(getattr(image, 'tile', ())), ('', ''))
        scaled = codec.startswith('ppm') and isinstance(stated, tuple)
        return int(stated[1]) if scaled else None
    if image.format == 'JPEG2000':
        box = data.find(b'ihdr', 0, 128)  # ISO 15444-1, I.5.3.1
        bits = data[box + 14] if box >= 0 else 255
        # Signed levels have the highest bit, and mixed depths all bits.
        return 2 ** (bits + 1) - 1 if bits < 16 else None
    return None


def _unsigned(image: Image.Image) -> bool:
    """Return whether a TIFF has unsigned levels of 32 bits."""
    tags = getattr(image, 'tag_v2', {})
    return tags.get(_BITS) == (32,) and tags.get(_FORMAT, (1,)) == (1,)


def _depth_of_colours(image: Image.Image) -> str | None:
    """Return which channels have 16 bits: 'LA', 'RGB', 'RGBA', or None."""
    if image.mode not in ('LA', 'RGB', 'RGBA'):
        return None
    for tile in getattr(image, 'tile', ()):
        raw, deep, _ = str(tile[3]).partition(';16')
        if deep and 'BGR' not in raw:  # 16 bits of all colours together
            return 'LA' if 'LA' in raw else image.mode
    return None
