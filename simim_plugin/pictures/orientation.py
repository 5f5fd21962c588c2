"""The EXIF orientation of a picture: the turn that shows it upright.

A camera stores the pixels as its sensor lies and writes a number from 1 to 8
into the file. Shape key: H rows, W columns, C channels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image

from ..environment import require
from ..files import check_regular

TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
"""First bytes of a TIFF."""

_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
_INVERSE = {6: 8, 8: 6}

_DESCRIPTION = 270  # tag of TIFF
_ARRAY = re.compile(r'\{"shape": \[(\d+), (\d+), (\d+)\]')
_NARROW = 32
"""Columns of a page that may be the channels of an array."""


@dataclass(frozen=True)
class Header:
    """Size and orientation of a picture.

    Args:
        stored (tuple[int, int]): (H, W) of the stored pixels.
        orientation (int): 1 (upright) to 8.
    """

    stored: tuple[int, int]
    orientation: int

    @property
    def turned(self) -> tuple[int, int]:
        """(H, W) as a person sees the picture."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored


def header_of(image: Image.Image) -> Header:
    """Return the header of an opened picture, whose pixels may be unread."""
    if image.format == 'PNG' and not _has_late_exif(image):
        exif = Image.Image.getexif(image)  # PNG's own reads the pixels
    else:
        exif = image.getexif()
    orientation: Any = exif.get(ExifTags.Base.Orientation)
    # Pillow turns the size of a TIFF when it opens the file.
    tags = getattr(image, 'tag_v2', {})
    page = tags.get(257, image.height), tags.get(256, image.width)
    height, width, *_ = array_of_pages(tags.get(_DESCRIPTION), page) or page
    # Files hold other numbers and types, too; they mean nothing.
    known = isinstance(orientation, int) and orientation in _UPRIGHT
    return Header((height, width), orientation if known else 1)


def array_of_pages(
    description: Any, page: tuple[int, int]
) -> tuple[int, int, int] | None:
    """Return the shape of an array (H, W, N) whose pages are (W, N).

    By default tifffile writes an array of many channels as H such pages, and
    describes it.

    Args:
        description (str): of the first page of a TIFF; other types, too.
        page (tuple[int, int]): its rows and columns.

    Returns:
        tuple[int, int, int] | None: None for other files.
    """
    found = isinstance(description, str) and _ARRAY.match(description)
    if not found:
        return None
    height, width, channels = map(int, found.groups())
    if channels > _NARROW or channels >= min(height, width):
        return None  # a stack of pictures
    return (height, width, channels) if page == (width, channels) else None


def _has_late_exif(image: Image.Image) -> bool:
    """Return whether a PNG has its EXIF chunk behind its pixels."""
    file = getattr(image, 'fp', None)
    if 'exif' in image.info or file is None:
        return False
    place = file.tell()
    file.seek(8)
    found = False
    while len(head := file.read(8)) == 8 and not found:
        found = head[4:] == b'eXIf'
        file.seek(int.from_bytes(head[:4], 'big') + 4, os.SEEK_CUR)
    file.seek(place)
    return found


def read_header(file: str | os.PathLike[str] | IO[bytes]) -> Header:
    """Read the header of a picture, without its pixels.

    Raises:
        Exception: any error of Pillow, for an unreadable file.
    """
    if isinstance(file, (str, os.PathLike)):
        check_regular(file)
        with open(file, 'rb') as stream:
            return read_header(stream)
    try:
        with Image.open(file) as image:
            return header_of(image)
    except Image.UnidentifiedImageError:
        file.seek(0)
        header = _beyond_pillow(file)
        if header is None:
            raise
        return header


def _beyond_pillow(file: IO[bytes]) -> Header | None:
    """Return the header of a DICOM file or a TIFF of many channels."""
    start = file.read(132)
    file.seek(0)
    if start.startswith(TIFF):
        require('reading of more than three channels')
        import tifffile

        with tifffile.TiffFile(file) as tiff:
            first = tiff.pages[0]
            page = first.tags['ImageLength'].value, first.tags[256].value
            size = array_of_pages(first.description, page) or page
            return Header((size[0], size[1]), stated_turn(first.tags))
    if start[128:] == b'DICM':
        require('reading of DICOM')
        import pydicom

        dataset = pydicom.dcmread(file, stop_before_pixels=True)
        return Header((int(dataset.Rows), int(dataset.Columns)), 1)
    return None


def stated_turn(tags: Any) -> int:
    """Return the orientation among the tags of a page of tifffile."""
    return int(tags['Orientation'].value) if 'Orientation' in tags else 1


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels (H, W) or (H, W, C) upright."""
    if orientation not in _UPRIGHT:
        return pixels
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels))


def turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn upright pixels (H, W) or (H, W, C) as they are stored."""
    return turn(pixels, _INVERSE.get(orientation, orientation))
