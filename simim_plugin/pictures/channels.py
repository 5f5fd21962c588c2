"""Images of one, four or any number of channels.

Shape key: H rows, W columns, N channels.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .dicom import decode_dicom, is_dicom
from .jpeg import decode_jpeg
from .levels import Window, to_eight_bits
from .orientation import header_of, turn, turn_back
from .png import check_png
from .tiff import is_tiff, read_rare, read_stack


def decode_channels(
    data: bytes,
    channels: int,
    turned: bool = True,
    window: Window | None = None,
    name: str = 'The image',
) -> np.ndarray:
    """Decode an image file of any number of channels but three.

    One channel is the grey of colours. More are those of a TIFF, side by side
    or as planes or pages, or of a file with alpha or CMYK.

    Args:
        data (bytes): the file.
        channels (int): N.
        turned, window, name: see :func:`simim_plugin.pictures.decode`.

    Returns:
        numpy.ndarray: (H, W, N) uint8.

    Raises:
        Exception: see :func:`simim_plugin.pictures.decode`; a ValueError if
            the file has another number of channels.
    """
    if is_dicom(data) and channels == 1:
        return _grey_of_colours(decode_dicom(data, window, name))[..., None]
    check_png(data)
    rare = read_rare(data, channels) if channels == 1 else None
    if rare is not None:
        levels, orientation = rare
        levels = levels if turned else turn_back(levels, orientation)
        levels = _grey_of_colours(levels)
    elif is_tiff(data) and channels > 1:
        levels, orientation = read_stack(data, channels)
        levels = levels if turned else turn_back(levels, orientation)
    else:
        image: Image.Image = Image.open(io.BytesIO(data))
        orientation = header_of(image).orientation
        if image.format in ('JPEG', 'MPO'):
            decode_jpeg(data)  # Pillow fills what is damaged with grey
        levels = _grey(image) if channels == 1 else np.asarray(image)
        if turned and image.format != 'TIFF':  # Pillow has turned it
            levels = turn(levels, orientation)
        elif not turned and image.format == 'TIFF':
            levels = turn_back(levels, orientation)
    levels = levels[..., None] if levels.ndim == 2 else levels
    if levels.shape[2] != channels:
        raise ValueError(
            f'it has {levels.shape[2]} channels, and channels={channels} of '
            'LoadRGBImage'
        )
    return to_eight_bits(levels, window, name)


def _grey_of_colours(levels: np.ndarray) -> np.ndarray:
    """Return the luma of (H, W, C) levels of any type; leave (H, W)."""
    if levels.ndim == 2:
        return levels
    luma = levels[..., :3] @ np.array([0.299, 0.587, 0.114])
    if levels.dtype.kind in 'iu':
        luma = luma.round()
    return luma.astype(levels.dtype)


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode == 'F' or image.mode.startswith('I'):
        return np.asarray(image)
    return np.asarray(image.convert('L'))
