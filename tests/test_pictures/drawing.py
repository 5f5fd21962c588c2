"""Pictures that the tests draw, and the files that they become."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray, kind: str, tag: int | None = None, **options):
    """Return the bytes of a file, with an EXIF orientation if one is given."""
    exif = Image.Exif()
    if tag is not None:
        exif[0x0112] = tag
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif, **options)
    return file.getvalue()


def noise(height: int = 40, width: int = 60) -> np.ndarray:
    """Return smooth colours (H, W, 3), different in every corner."""
    draw = np.random.default_rng(0)
    small = draw.integers(0, 255, (8, 12, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
    return np.asarray(image)
