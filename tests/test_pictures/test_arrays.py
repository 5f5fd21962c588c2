"""Arrays that are given to an inferencer, read by the rules of files."""

import numpy as np
import pytest

from simim_plugin.datasets import LoadRGBImage
from simim_plugin.errors import SimimError
from simim_plugin.pictures import array_to_rgb

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = np.full((4, 6, 1), 7, np.uint8)


@pytest.mark.parametrize(
    ('array', 'expected'),
    {
        'grey': (GREY, GREY[..., None]),
        'one channel': (GREY[..., None], GREY[..., None]),
        'colour': (RGB[..., ::-1], RGB),
        'alpha': (np.concatenate([RGB[..., ::-1], ALPHA], 2), RGB),
        '16 bits': (RGB[..., ::-1].astype(np.uint16) * 257, RGB),
        'deep grey': (GREY.astype(np.uint16) * 257, GREY[..., None]),
    }.values(),
    ids=['grey', 'one channel', 'colour', 'alpha', '16 bits', 'deep grey'],
)
def test_arrays_become_rgb(array, expected):
    found = array_to_rgb(array)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.broadcast_to(expected, (4, 6, 3)))
    results = LoadRGBImage()(dict(img=array))
    assert np.array_equal(results['img'], found)
    assert results['img_shape'] == (4, 6)


@pytest.mark.parametrize(
    'array',
    [
        RGB.astype(np.float32),
        RGB.astype(np.int16) - 300,
        np.zeros((4, 6, 2), np.uint8),
        np.zeros((3, 4, 6), np.uint8),
        np.zeros((1, 4, 6, 3), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
        'a.png',
        None,
    ],
    ids=str,
)
def test_other_arrays_are_refused(array):
    with pytest.raises(SimimError, match='is no image') as caught:
        array_to_rgb(array)
    assert '\n' not in str(caught.value)


def test_floats_have_a_window():
    found = array_to_rgb(RGB[..., ::-1] / np.float32(255), (0, 1))
    assert np.array_equal(found, RGB)
