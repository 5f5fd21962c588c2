"""One rule for the EXIF orientation: as a person sees the picture."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from simim_plugin.pictures import decode, read_header, turn
from simim_plugin.pictures.orientation import turn_back

from .drawing import encode, noise

EXACT = {
    'JPEG': dict(quality=95),
    'PNG': {},
    'TIFF': {},
    'TIFF ': dict(compression='tiff_deflate'),
    'WEBP': dict(lossless=True),
}


@pytest.mark.parametrize('tag', range(1, 9))
@pytest.mark.parametrize('kind', EXACT)
def test_pictures_are_upright(kind, tag):
    data = encode(noise(), kind.strip(), tag, **EXACT[kind])
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data), np.asarray(expected))
    stored = decode(encode(noise(), kind.strip(), **EXACT[kind]))
    assert np.array_equal(decode(data, turned=False), stored)


@pytest.mark.parametrize('tag', range(1, 9))
def test_the_header_tells_both_sizes(tag):
    for kind in ('JPEG', 'PNG', 'TIFF'):
        header = read_header(io.BytesIO(encode(noise(), kind, tag)))
        assert header.stored == (40, 60), kind
        assert header.turned == decode(encode(noise(), kind, tag)).shape[:2]


def test_the_tag_may_stand_behind_the_pixels():
    data = encode(noise(), 'PNG', 6)
    at = data.index(b'eXIf') - 4
    size = int.from_bytes(data[at : at + 4], 'big') + 12
    chunk, rest = data[at : at + size], data[:at] + data[at + size :]
    late = rest[:-12] + chunk + rest[-12:]
    assert late != data
    assert np.array_equal(decode(late), decode(data))
    assert read_header(io.BytesIO(late)).orientation == 6


@pytest.mark.parametrize('tag', [0, 9, 65535])
def test_numbers_without_a_meaning_turn_nothing(tag):
    data = encode(noise(), 'PNG', tag)
    assert np.array_equal(decode(data), noise())


@pytest.mark.parametrize('tag', range(1, 9))
@pytest.mark.parametrize('shape', [(4, 6), (4, 6, 3), (4, 6, 5)])
def test_turning_back_is_the_inverse(tag, shape):
    pixels = np.arange(np.prod(shape)).reshape(shape)
    assert np.array_equal(turn_back(turn(pixels, tag), tag), pixels)


def test_deep_pictures_are_upright():
    levels = np.arange(24, dtype=np.uint16).reshape(4, 6) << 8
    for kind in ('PNG', 'TIFF'):
        turned = decode(encode(levels, kind, 6))[..., 0]
        assert np.array_equal(turned, np.rot90(levels >> 8, -1)), kind
