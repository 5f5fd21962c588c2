"""Levels of more than 8 bits: one rule for all pictures of a set."""

import cv2
import numpy as np
import pytest
from PIL import Image

from simim_plugin.datasets import ImageFolder, LoadRGBImage
from simim_plugin.errors import SimimError
from simim_plugin.pictures import decode, levels
from simim_plugin.pictures.reading import read_levels

from .drawing import encode, jpeg2000, png_of_16_bits, pnm, tiff


@pytest.fixture
def notes(monkeypatch):
    """The warnings of this test; each kind is notes once."""
    found = []
    monkeypatch.setattr(
        levels, 'print_log', lambda text, **_: found.append(text)
    )
    monkeypatch.setattr(levels, '_warned', set())
    return found


def ramp(low, high, kind) -> np.ndarray:
    return np.linspace(low, high, 4096).reshape(64, 64).astype(kind)


@pytest.mark.parametrize('top', [255, 256, 65535])
@pytest.mark.parametrize('kind', [np.uint16, np.int32])
def test_the_rule_does_not_depend_on_the_picture(top, kind, notes):
    pixels = ramp(0, top, kind)
    read = decode(tiff(pixels))
    assert np.array_equal(read, np.repeat((pixels >> 8)[..., None], 3, 2))
    assert bool(notes) == (top < 65535)


def test_unsigned_levels_of_32_bits():
    pixels = ramp(0, 4e9, np.uint32)
    read = decode(tiff(pixels), window=(0, 4e9))
    assert np.abs(read[..., 0] - pixels / 4e9 * 255).max() <= 1


@pytest.mark.parametrize('bits', [8, 10, 12, 14])
def test_few_levels_are_warned_of(bits, notes):
    top = 2**bits - 1
    for _ in range(2):
        decode(encode(ramp(0, top, np.uint16), 'PNG'), name='slice.png')
    assert len(notes) == 1
    for part in ('slice.png', f'levels from 0 to {top} of', f'(0, {top})'):
        assert part in notes[0]


@pytest.mark.parametrize(
    ('pixels', 'shown'),
    [
        (ramp(-1000, 2000, np.int16), 'integers from -1000 to 2000'),
        (ramp(-1000, 2000, np.int32), 'integers from -1000 to 2000'),
        (ramp(0, 70000, np.int32), 'integers from 0 to 70000'),
        (ramp(0, 1, np.float32), 'floats from 0 to 1'),
    ],
    ids=['int16', 'int32', 'large', 'float'],
)
def test_other_levels_need_a_window(pixels, shown):
    with pytest.raises(ValueError, match=shown) as caught:
        decode(tiff(pixels))
    assert 'window=(low, high)' in str(caught.value)
    low, high = float(pixels.min()), float(pixels.max())
    read = decode(tiff(pixels), window=(low, high))[..., 0]
    expected = (pixels.astype(float) - low) / (high - low) * 255
    assert np.abs(read - expected).max() <= 0.501


def test_a_window_clips_and_spreads():
    pixels = np.array([[0, 1000, 2000, 3000, 4095]], np.uint16)
    read = decode(encode(pixels, 'PNG'), window=(1000, 3000))
    assert read[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_eight_bits_have_no_window():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    read = decode(encode(pixels, 'PNG'), window=(0, 4095))
    assert np.array_equal(read[..., 1], pixels)


def test_missing_values_are_black():
    pixels = np.array([[np.nan, 0.5, 1.0]], np.float32)
    read = decode(tiff(pixels), window=(0, 1))
    assert read[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize('ending', ['.png', '.tiff'])
def test_deep_colours_have_a_window_too(ending, notes):
    draw = np.random.default_rng(0)
    rgb = draw.integers(0, 4096, (5, 7, 3), dtype=np.uint16)
    data = cv2.imencode(ending, rgb[..., ::-1])[1].tobytes()
    assert np.array_equal(decode(data), rgb >> 8)
    assert len(notes) == 1
    spread = np.round(rgb / 4095 * 255)
    assert np.abs(decode(data, window=(0, 4095)) - spread).max() <= 1


@pytest.mark.parametrize('window', [(1, 1), (2, 1), 5, 'all', (1, 2, 3)])
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(SimimError, match=r'window=\(0, 4095\)'):
        LoadRGBImage(window=window)


def test_percentiles_of_the_set_are_found_once(tmp_path):
    for k in range(8):
        pixels = np.full((20, 20), 1000 + 100 * k, np.uint16)
        (tmp_path / f'{k}.png').write_bytes(encode(pixels, 'PNG'))
    load = [dict(type='LoadRGBImage', window='percentiles')]
    dataset = ImageFolder(str(tmp_path), pipeline=load)
    assert dataset.pipeline.transforms[0].window == (1000, 1700)
    found = [int(dataset[k]['img'][0, 0, 0]) for k in range(8)]
    assert found == [round(255 * k / 7) for k in range(8)]
    with pytest.raises(SimimError, match='measured on the training set'):
        LoadRGBImage(window='percentiles')(
            dict(img_path=str(tmp_path / '0.png'))
        )


def grey_of(rgb) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert('L'))[..., None]


def drawn(*shape, top=65535):
    return np.random.default_rng(0).integers(0, top + 1, shape)


@pytest.mark.parametrize('depth', [1, 2, 3, 4])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_a_window_of_deep_colours_for_any_channels(depth, channels):
    deep = drawn(5, 7, depth, top=4095)
    spread = np.round(deep / 4095 * 255).astype(np.uint8)
    data = png_of_16_bits(deep)
    if channels in (2, 4) and channels != depth:
        with pytest.raises(ValueError, match=f'it has {depth} channels'):
            decode(data, window=(0, 4095), channels=channels)
        return
    read = decode(data, window=(0, 4095), channels=channels)
    if depth <= 2 and channels != 2:
        spread = np.repeat(spread[..., :1], channels, 2)
    elif channels == 1:
        spread = grey_of(np.ascontiguousarray(spread[..., :3]))
    else:
        spread = spread[..., :channels]
    assert np.array_equal(read, spread)


@pytest.mark.parametrize('text', [False, True], ids=['binary', 'text'])
@pytest.mark.parametrize('depth', [1, 3])
@pytest.mark.parametrize('top', [256, 1000, 4095, 65535])
def test_the_highest_level_that_a_pnm_file_states(text, depth, top, notes):
    deep = drawn(6, 9, depth, top=top)
    deep[0, 0] = top
    data = pnm(deep, top, text)
    assert np.array_equal(read_levels(data).reshape(deep.shape), deep)
    expected = np.repeat(deep / top * 255, 3 // depth, axis=2)
    assert np.abs(decode(data) - expected).max() < 1
    half = np.round((deep / (top / 2)).clip(0, 1) * 255)
    read = decode(data, window=(0, top / 2))
    assert np.abs(read - np.repeat(half, 3 // depth, axis=2)).max() <= 1
    assert not notes


@pytest.mark.parametrize('depth', [1, 3])
@pytest.mark.parametrize('bits', [9, 12, 15, 16])
def test_the_highest_level_that_a_jpeg_2000_file_states(bits, depth, notes):
    top = 2**bits - 1
    deep = drawn(32, 40, depth, top=top)
    data = jpeg2000(deep, bits)
    assert np.array_equal(read_levels(data).reshape(deep.shape), deep)
    expected = np.repeat(deep / top * 255, 3 // depth, axis=2)
    assert np.abs(decode(data) - expected).max() < 1
    read = decode(data, window=(0, top / 2))
    half = np.round((deep / (top / 2)).clip(0, 1) * 255)
    assert np.abs(read - np.repeat(half, 3 // depth, axis=2)).max() <= 1
    assert not notes


@pytest.mark.parametrize('share', [0.3, 0.9])
@pytest.mark.parametrize('kind', ['png', 'pnm', 'text', 'jpeg2000'])
def test_a_deep_file_that_is_cut_off(kind, share):
    deep = drawn(32, 40, 3, top=4095)
    data = {
        'png': lambda: png_of_16_bits(deep),
        'pnm': lambda: pnm(deep, 4095, False),
        'text': lambda: pnm(deep, 4095, True),
        'jpeg2000': lambda: jpeg2000(deep, 12),
    }[kind]()
    for channels in (1, 3):
        with pytest.raises((OSError, ValueError)):
            decode(data[: int(len(data) * share)], channels=channels)
