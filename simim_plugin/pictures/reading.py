"""Decode the bytes of any picture file; turn arrays into the same form.

Shape key: H rows, W columns, C channels.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from .channels import decode_channels
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
    alpha is dropped. Of animations and pages the first is read.

    Args:
        data (bytes): the file.
        turned (bool): turn the pixels upright by the EXIF orientation.
        window (tuple[float, float], optional): levels that become 0 and 255
            in images of more than 8 bits, see
            :func:`simim_plugin.pictures.levels.to_eight_bits`.
        name (str): of the file, for warnings.
        channels (int): N. Other numbers than three are read by
            :func:`simim_plugin.pictures.channels.decode_channels`.

    Returns:
        numpy.ndarray: (H, W, N) uint8, RGB if N is 3.

    Raises:
        Exception: any error of Pillow or pydicom, for an unreadable, damaged
            or truncated file, an image large enough to exhaust the memory,
            or levels that need a window.
    """
    if channels != 3:
        return decode_channels(data, channels, turned, window, name)
    if is_dicom(data):
        return in_three_channels(decode_dicom(data, window, name))
    rare = read_rare(data, channels)
    if rare is not None:
        levels, orientation = rare
        colours = in_three_channels(to_eight_bits(levels, window, name))
        return colours if turned else turn_back(colours, orientation)
    image: Image.Image = Image.open(io.BytesIO(data))  # reads the header
    orientation = header_of(image).orientation
    if image.format in ('JPEG', 'MPO') and image.mode in ('L', 'RGB'):
        pixels = decode_jpeg(data)
        if pixels is not None:
            return turn(pixels, orientation) if turned else pixels
    levels = _levels(image, data)
    pixels = in_three_channels(to_eight_bits(levels, window, name))
    if image.format == 'TIFF':  # Pillow and OpenCV have turned it already
        return pixels if turned else turn_back(pixels, orientation)
    return turn(pixels, orientation) if turned else pixels


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
    if channels not in (1, 3) and is_tiff(data):
        return read_stack(data, channels)[0]
    rare = read_rare(data, channels)
    if rare is not None:
        return rare[0]
    return _levels(Image.open(io.BytesIO(data)), data)


def in_three_channels(pixels: np.ndarray) -> np.ndarray:
    """Repeat grey (H, W) as RGB; drop the alpha of (H, W, 4)."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return pixels[..., :3]


def _levels(image: Image.Image, data: bytes) -> np.ndarray:
    """Return levels of more than 8 bits as stored, others as RGB."""
    check_png(data)
    if image.mode == 'F' or image.mode.startswith('I'):
        return np.asarray(image)
    if _is_deep_colour(image):  # Pillow would keep the upper bytes
        levels = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
        )
        if levels is not None and levels.ndim == 3:
            return levels[..., 2::-1]  # BGR, with or without alpha
    if image.mode == 'P':
        image = image.convert('RGBA')  # no warning about alpha in palettes
    return np.array(image.convert('RGB'))


def _is_deep_colour(image: Image.Image) -> bool:
    """Return whether an RGB image has 16 bits a channel."""
    return image.mode in ('RGB', 'RGBA') and any(
        ';16' in str(tile[3]) for tile in getattr(image, 'tile', ())
    )
