"""Read any image file for a picture of it, whatever its levels and channels.

Shape key: H rows, W columns.
"""

from __future__ import annotations

import numpy as np

from .dicom import dicom_levels, is_dicom
from .levels import measured_window, to_eight_bits
from .orientation import turn_back
from .reading import decode, read_levels, with_channels
from .tiff import is_tiff, read_stack


def decode_to_draw(
    data: bytes, turned: bool = True, name: str = 'The image'
) -> np.ndarray:
    """Decode an image file to RGB.

    Levels that need a window get that of the image's own percentiles. The
    first three of more than four channels are shown, and the first of two.

    Args:
        data (bytes): the file.
        turned (bool): turn the pixels upright by the EXIF orientation.
        name (str): of the file, for messages.

    Returns:
        numpy.ndarray: (H, W, 3) uint8.

    Raises:
        Exception: see :func:`simim_plugin.pictures.decode`.
    """
    if is_dicom(data):
        levels, stated, _ = dicom_levels(data)
        return decode(data, True, stated or measured_window([levels]), name)
    stack = _many_channels(data, turned)
    if stack is not None:
        window = measured_window([stack])
        return with_channels(to_eight_bits(stack, window, name), 3)
    levels = read_levels(data)
    return decode(data, turned, measured_window([levels]), name)


def as_shown(image: np.ndarray) -> np.ndarray:
    """Return the first three channels of an image, or its first one thrice.

    Args:
        image (numpy.ndarray): (H, W, N) uint8, or (H, W).

    Returns:
        numpy.ndarray: (H, W, 3) uint8.
    """
    if image.ndim == 3:
        image = image[..., : 3 if image.shape[2] >= 3 else 1]
    return with_channels(image, 3)


def _many_channels(data: bytes, turned: bool) -> np.ndarray | None:
    """Return three channels or one of a TIFF of many, None for others."""
    if not is_tiff(data):
        return None
    try:
        levels, orientation = read_stack(data)
    except (ImportError, ValueError):  # no tifffile, or a rare compression
        return None
    if levels.shape[2] in (1, 3, 4):
        return None
    levels = levels if turned else turn_back(levels, orientation)
    return levels[..., :3] if levels.shape[2] > 4 else levels[..., 0]
