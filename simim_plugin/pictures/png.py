"""Find damaged PNG files, whose lost rows Pillow leaves black."""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = b'\x89PNG\r\n\x1a\n'


def check_png(data: bytes) -> None:
    """Compare the checksums of the chunks of pixels; leave other files.

    Pillow compares those of the other chunks.

    Raises:
        ValueError: if a checksum is wrong.
    """
    if not data.startswith(_SIGNATURE):
        return
    view, place = memoryview(data), len(_SIGNATURE)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from('>I4s', data, place)
        end = place + 8 + length
        if kind == b'IDAT' and end + 4 <= len(data):
            (stated,) = struct.unpack_from('>I', data, end)
            if zlib.crc32(view[place + 4 : end]) != stated:
                raise ValueError(
                    'the file is damaged, its chunk IDAT has another checksum'
                )
        place = end + 4
