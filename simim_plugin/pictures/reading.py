"""Decode the bytes of any picture file.

Shape key: H rows, W columns, C channels of the file, N wanted channels.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .deep import deep_levels
from .dicom import decode_dicom, dicom_levels, is_dicom
from .jpeg import decode_jpeg
from .levels import Window, to_eight_bits
from .orientation import header_of, turn, turn_back
from .png import check_png
from .tiff import is_tiff, read_rare, read_stack


def decode(
    data: bytes,
    turned: bool = True,
    window: Window | None = None,
    name: str = 'The image',
    channels: int = 3,
) -> np.ndarray:
    """Decode the bytes of an image file, to RGB by default.

    Greyscale, CMYK and palette images become RGB as Pillow converts them;
    alpha is dropped. Of animations and pages the first is read. One channel
    is the grey of colours. Other numbers are those of a TIFF, side by side or
    as planes or pages, or of a file with alpha or CMYK.

    Args:
        data (bytes): the file.
        turned (bool): turn the pixels upright by the EXIF orientation.
        window (tuple[float, float], optional): levels that become 0 and 255
            in images of more than 8 bits, see
            :func:`simim_plugin.pictures.levels.to_eight_bits`. By default
            those that a DICOM, PNM or JPEG 2000 file states.
        name (str): of the file, for warnings.
        channels (int): N. Defaults to 3.

    Returns:
        numpy.ndarray: (H, W, N) uint8, RGB if N is 3.

    Raises:
        Exception: any error of Pillow or pydicom, for an unreadable, damaged
            or truncated file, an image large enough to exhaust the memory,
            levels that need a window, or another number of channels.
    """
    if is_dicom(data):
        return with_channels(decode_dicom(data, window, name), channels)
    levels, stated, orientation = _read(data, channels)
    pixels = to_eight_bits(levels, window or stated, name)
    pixels = with_channels(pixels, channels)
    return pixels if turned else turn_back(pixels, orientation)


def read_levels(data: bytes, channels: int = 3) -> np.ndarray:
    """Return the levels of an image file, (H, W) or (H, W, C), any type.

    Args:
        data (bytes): the file.
        channels (int): see :func:`decode`.

    Raises:
        Exception: see :func:`decode`.
    """
    if is_dicom(data):
        return dicom_levels(data)[0]
    return _read(data, channels)[0]


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return pixels as RGB, as one channel of grey, or as they are.

    Args:
        pixels (numpy.ndarray): (H, W) or (H, W, C) uint8. The first channels
            are grey and alpha if C is 2, RGB if C is 3 or 4.
        channels (int): N.

    Returns:
        numpy.ndarray: (H, W, N).

    Raises:
        ValueError: if the pixels have another number of channels.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    depth = pixels.shape[2]
    if depth == channels:
        return pixels
    if channels in (1, 3) and depth in (1, 2):
        return np.repeat(pixels[..., :1], channels, axis=2)
    if channels in (1, 3) and depth in (3, 4):
        colours = np.ascontiguousarray(pixels[..., :3])
        if channels == 3:
            return colours
        return np.array(Image.fromarray(colours).convert('L'))[..., None]
    raise ValueError(
        f'it has {depth} channels, and channels={channels} of LoadRGBImage'
    )


def _read(data: bytes, channels: int) -> tuple[np.ndarray, Window | None, int]:
    """Read any file but DICOM.

    Returns:
        tuple: levels (H, W) or (H, W, C), upright; the window that the file
        states, if it does; and its orientation.
    """
    check_png(data)
    if is_tiff(data):
        if channels not in (1, 3):
            levels, orientation = read_stack(data, channels)
            return levels, None, orientation
        rare = read_rare(data, channels)
        if rare is not None:
            return rare[0], None, rare[1]
    image: Image.Image = Image.open(io.BytesIO(data))  # reads the header
    orientation = header_of(image).orientation
    levels, stated = _levels(image, data, channels)
    if image.format != 'TIFF':  # Pillow and OpenCV have turned it already
        levels = turn(levels, orientation)
    return levels, stated, orientation


def _levels(
    image: Image.Image, data: bytes, channels: int
) -> tuple[np.ndarray, Window | None]:
    """Return the levels of an opened file and the window that it states."""
    if image.format in ('JPEG', 'MPO'):
        pixels = decode_jpeg(data)  # Pillow fills what is damaged with grey
        if pixels is not None and image.mode in ('L', 'RGB'):
            return pixels, None
    deep = deep_levels(image, data)
    if deep is not None:
        return deep
    if image.mode == 'P':  # Pillow warns of alpha in palettes
        clear = channels == 4 and 'transparency' in image.info
        rgba = image.convert('RGBA')
        image = rgba if clear else rgba.convert('RGB')
    if image.mode == 'La':  # Pillow knows no other way
        image = image.convert('LA')
    if channels == 3:
        image = image.convert('RGB')
    elif channels == 1:
        image = image.convert('L')
    return np.array(image), None
