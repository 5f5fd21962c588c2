"""Files that Pillow or OpenCV misread without a word, or do not know."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from simim_plugin.pictures import decode, decode_to_draw, read_header

from .drawing import encode, noise, tiff

GREY = noise()[..., 0]
RGB = noise()


def colours(kind) -> np.ndarray:
    return RGB.astype(kind) * 257


TIFFS = {
    'planes of 16 bits': tiff(
        colours('u2').transpose(2, 0, 1),
        photometric='rgb',
        planarconfig='separate',
    ),
    'planes of 8 bits': tiff(
        RGB.transpose(2, 0, 1), photometric='rgb', planarconfig='separate'
    ),
    '16 bits': tiff(colours('u2'), photometric='rgb'),
    '16 bits, turned': tiff(
        np.rot90(colours('u2')).transpose(2, 0, 1),
        photometric='rgb',
        planarconfig='separate',
        extratags=[(274, 3, 1, 6, True)],
    ),
}


@pytest.mark.parametrize('kind', TIFFS)
def test_colours_of_a_tiff(kind):
    assert np.array_equal(decode(TIFFS[kind]), RGB)
    grey = np.asarray(Image.fromarray(RGB).convert('L'), int)
    assert np.abs(decode(TIFFS[kind], channels=1)[..., 0] - grey).max() <= 1


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('kind', ['u1', 'u2', 'u4', 'u8'])
def test_the_lowest_level_is_white(kind, channels):
    top = np.iinfo(kind).max
    levels = GREY.astype(kind) * (top // 255)
    read = decode(
        tiff(top - levels, photometric='miniswhite'),
        channels=channels,
        window=(0, top),
    )
    assert np.array_equal(read[..., 0], GREY)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('kind', ['u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8'])
@pytest.mark.parametrize('pages', [2, 3, 5])
def test_the_first_page_is_read(kind, pages, channels):
    levels = np.stack([GREY, *[0 * GREY] * (pages - 1)]).astype(kind)
    data = tiff(levels, photometric='minisblack')
    read = decode(data, channels=channels, window=(0, 255))
    assert np.abs(read[..., 0].astype(int) - GREY).max() <= 1
    assert read.shape[2] == channels


@pytest.mark.parametrize('count', [3, 4, 5])
@pytest.mark.parametrize('kind', ['u1', 'u2', 'f4', 'f8'])
def test_pages_of_an_array_are_no_pictures(kind, count):
    array = np.dstack([RGB, RGB])[..., :count].astype(kind)
    data = tiff(array, photometric='minisblack')  # 40 pages of 60 x count
    assert read_header(io.BytesIO(data)).stored == GREY.shape
    read = decode(data, channels=count, window=(0, 255))
    assert np.array_equal(read, array.astype('u1'))
    assert decode_to_draw(data).shape == RGB.shape
    if count == 5:
        with pytest.raises(ValueError, match='it has 5 channels, and'):
            decode(data)
    else:
        read = decode(data, window=(0, 255))
        assert np.array_equal(read, array[..., :3].astype('u1'))


@pytest.mark.parametrize('kind', ['u1', 'u2'])
@pytest.mark.parametrize('alpha', ['unassalpha', 'assocalpha'])
def test_the_alpha_of_a_grey_is_dropped(kind, alpha):
    top = np.iinfo(kind).max
    grey = GREY.astype(kind) * (top // 255)
    data = tiff(
        np.dstack([grey, np.full_like(grey, top)]),
        photometric='minisblack',
        planarconfig='contig',
        extrasamples=[alpha],
    )
    assert np.array_equal(decode(data, channels=1)[..., 0], GREY)


def test_colours_of_5_and_6_bits():
    row = np.array([0xFFFF, 0xF800, 0x07E0, 0x001F, 0x0000, 0x8410], '<u2')
    data = b'BM' + struct.pack('<IHHI', 78, 0, 0, 66)
    data += struct.pack('<IiiHHIIiiII', 40, 6, 1, 1, 16, 3, 12, 0, 0, 0, 0)
    data += struct.pack('<III', 0xF800, 0x07E0, 0x001F) + row.tobytes()
    expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
    assert expected.max() == 255
    assert np.array_equal(decode(data), expected)


@pytest.mark.parametrize('kind', ['f2', 'f4', 'f8'])
@pytest.mark.parametrize('shape', ['grey', 'colours'])
def test_floats_need_a_window(kind, shape):
    pixels = GREY if shape == 'grey' else RGB
    photometric = 'minisblack' if shape == 'grey' else 'rgb'
    shares = (pixels / 255).astype(kind)
    shares[:2] = np.nan
    data = tiff(shares, photometric=photometric)
    with pytest.raises(
        ValueError, match=r'floats from 0(\.\d+)? to (1|0\.\d+),'
    ):
        decode(data)
    read = decode(data, window=(0, 1)).astype(int)
    expected = pixels if shape == 'colours' else GREY[..., None]
    assert np.abs(read[2:] - expected[2:]).max() <= 1
    assert not read[:2].any()
    assert decode_to_draw(data).shape == RGB.shape
    assert read_header(io.BytesIO(data)).stored == GREY.shape


def test_signed_levels_of_8_bits():
    signed = (GREY.astype(int) - 128).astype('i1')
    with pytest.raises(ValueError, match=r'integers from -\d+ to'):
        decode(tiff(signed))
    read = decode(tiff(signed), window=(-128, 127))
    assert np.array_equal(read[..., 0], GREY)
    positive = (GREY >> 1).astype('i1')
    assert np.array_equal(decode(tiff(positive))[..., 0], GREY >> 1)


def test_more_channels_are_no_colours():
    data = tiff(
        np.dstack([RGB, RGB]), photometric='minisblack', planarconfig='contig'
    )
    with pytest.raises(ValueError, match='it has 6 channels, and channels=3'):
        decode(data)


def png_chunks(data: bytes) -> dict[bytes, tuple[int, int]]:
    """Return where the content of each kind of chunk is."""
    place, found = 8, {}
    while place < len(data):
        (length,) = struct.unpack('>I', data[place : place + 4])
        found[data[place + 4 : place + 8]] = (place + 8, length)
        place += length + 12
    return found


@pytest.mark.parametrize('size', [1, 200], ids='{} bytes'.format)
def test_a_png_with_a_hole(size):
    data = bytearray(encode(noise(60, 80), 'PNG'))
    start, length = png_chunks(bytes(data))[b'IDAT']
    middle = start + length // 2
    data[middle : middle + size] = bytes(
        255 - value for value in data[middle : middle + size]
    )
    for read in (decode, decode_to_draw):
        with pytest.raises(ValueError, match='damaged, its chunk IDAT'):
            read(bytes(data))


def test_phones_write_several_pictures_into_a_jpeg():
    file = io.BytesIO()
    image = Image.fromarray(noise(60, 80))
    image.save(file, 'MPO', save_all=True, append_images=[image])
    expected = np.asarray(Image.open(file))
    assert np.array_equal(decode(file.getvalue()), expected)


def test_padding_between_the_segments_of_a_jpeg():
    data = encode(noise(60, 80), 'JPEG')
    tables = data.find(b'\xff\xdb')
    padded = data[:tables] + b' ' * 106 + data[tables:]
    assert np.array_equal(decode(padded), decode(data))
