"""Images of one, four or any number of channels.

Shape key: H rows, W columns, N channels.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ..environment import require
from .dicom import decode_dicom, is_dicom
from .levels import Window, to_eight_bits
from .orientation import TIFF, header_of, stated_turn, turn, turn_back


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
        return decode_dicom(data, window, name)[..., None]
    if is_tiff(data) and channels > 1:
        levels, orientation = read_stack(data)
        levels = levels if turned else turn_back(levels, orientation)
    else:
        image: Image.Image = Image.open(io.BytesIO(data))
        orientation = header_of(image).orientation
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


def is_tiff(data: bytes) -> bool:
    """Return whether a file is a TIFF, by its first bytes."""
    return data.startswith(TIFF)


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode == 'F' or image.mode.startswith('I'):
        return np.asarray(image)
    return np.asarray(image.convert('L'))


def read_stack(data: bytes) -> tuple[np.ndarray, int]:
    """Read all channels of a TIFF upright, (H, W, N), and its orientation."""
    require('reading of more than three channels')
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series, tags = file.series[0], file.pages[0].tags
        orientation = stated_turn(tags)
        levels, axes = series.asarray(), series.axes
    for kind in 'YX':
        if axes.count(kind) != 1:
            raise ValueError(f'a TIFF of axes {axes} is no image')
    rows, columns = axes.index('Y'), axes.index('X')
    levels = np.moveaxis(levels, (rows, columns), (0, 1))
    levels = levels.reshape(*levels.shape[:2], -1)
    return turn(levels, orientation), orientation
