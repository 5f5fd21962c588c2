"""Decode JPEG files, and find damage that other decoders pass over.

libjpeg fills what a hole or a cut has taken with grey and only warns.
simplejpeg raises its warnings; Pillow drops them, and OpenCV prints them
without the file's name.
"""

from __future__ import annotations

import logging
import re
from functools import cache

import cv2
import numpy as np
from mmengine.logging import print_log

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

_PADDING = 8
"""Bytes after the last row that cameras leave."""

_END, _SCAN = b'\xff\xd9', b'\xff\xda'


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Decode a JPEG of grey or YCbCr to RGB, pixels as stored.

    The pixels equal Pillow's. Without simplejpeg, damage is not found.

    Returns:
        numpy.ndarray | None: (H, W, 3) uint8, or None if the file needs
        another decoder.

    Raises:
        ValueError: if the file is damaged or truncated.
    """
    if simplejpeg is None:
        _say_unchecked()
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is None:
            return None
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, pixels)
    try:
        return simplejpeg.decode_jpeg(data, 'RGB')
    except ValueError as error:
        if _is_damage(str(error), data):
            raise ValueError(
                f'the file is damaged or truncated, {error}'
            ) from error
    try:
        return simplejpeg.decode_jpeg(data, 'RGB', strict=False)
    except ValueError:
        return None


def _is_damage(warning: str, data: bytes) -> bool:
    """Return whether a warning of libjpeg means that pixels are lost."""
    found = re.search(r'(\d+) extraneous bytes before marker 0x(\w+)', warning)
    if found is None:
        return warning.startswith(('Corrupt JPEG data', 'Premature end'))
    count, marker = int(found[1]), bytes.fromhex(f'ff{found[2]}')
    if marker == _END:
        end = data.rfind(marker)
        few = count <= _PADDING
    else:  # a table before the first scan, behind bytes of one value
        end, few = data.find(marker, 0, data.find(_SCAN)), False
    padding = data[max(end - count, 0) : max(end, 0)]
    return not few and len(set(padding)) != 1


@cache
def _say_unchecked() -> None:
    print_log(
        'simplejpeg is not installed, so damaged JPEG files are read with '
        'grey areas and not found; install it with `pip install simplejpeg`.',
        logger='current',
        level=logging.WARNING,
    )
