"""Pictures that the tests draw, and the files that they become."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import tifffile
from PIL import Image


def encode(pixels: np.ndarray, kind: str, tag: int | None = None, **options):
    """Return the bytes of a file, with an EXIF orientation if one is given."""
    exif = Image.Exif()
    if tag is not None:
        exif[0x0112] = tag
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif, **options)
    return file.getvalue()


def tiff(pixels, **options) -> bytes:
    """Return the bytes of a TIFF file."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.asarray(pixels), **options)
    return file.getvalue()


def noise(height: int = 40, width: int = 60) -> np.ndarray:
    """Return smooth colours (H, W, 3), different in every corner."""
    draw = np.random.default_rng(0)
    small = draw.integers(0, 255, (8, 12, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.BICUBIC)
    return np.asarray(image)


def png_of_16_bits(levels) -> bytes:
    """Write grey, grey and alpha, RGB or RGBA; no library writes all."""
    height, width, depth = levels.shape

    def chunk(kind, body):
        body = kind + body
        length, checksum = len(body) - 4, zlib.crc32(body)
        return struct.pack('>I', length) + body + struct.pack('>I', checksum)

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[depth]
    head = struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in levels)
    return b''.join(
        [
            b'\x89PNG\r\n\x1a\n',
            chunk(b'IHDR', head),
            chunk(b'IDAT', zlib.compress(rows)),
            chunk(b'IEND', b''),
        ]
    )


def pnm(levels, top, text) -> bytes:
    """Write a PGM or PPM whose highest level is ``top``."""
    height, width, depth = levels.shape
    number = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}
    head = f'P{number[depth, text]}\n# made up\n{width} {height}\n{top}\n'
    if text:
        return (head + ' '.join(map(str, levels.ravel()))).encode()
    kind = '>u2' if top > 255 else 'u1'
    return head.encode() + levels.astype(kind).tobytes()


def jpeg2000(levels, bits) -> bytes:
    """Write a lossless file of ``bits`` bits.

    OpenCV writes 16 bits. A file of fewer stores the same differences from
    the middle level.
    """
    moved = levels.astype(int) + 2**15 - 2 ** (bits - 1)
    flags = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    image = moved.astype(np.uint16)[..., ::-1]
    data = bytearray(cv2.imencode('.jp2', image, flags)[1])
    stated = [data.find(b'ihdr') + 14]
    first = data.find(b'\xff\x51') + 40
    stated += [first + 3 * k for k in range(levels.shape[2])]
    for place in stated:
        assert data[place] == 15
        data[place] = bits - 1
    return bytes(data)
