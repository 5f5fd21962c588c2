"""JPEG files whose pixels are lost are found; harmless warnings are not."""

import io

import numpy as np
import pytest
from PIL import Image

from simim_plugin.datasets import ImageFolder, UnreadableImageError
from simim_plugin.pictures import decode, jpeg

from .drawing import encode, noise

pytestmark = pytest.mark.skipif(
    jpeg.simplejpeg is None, reason='simplejpeg is not installed'
)


def photo(**options) -> bytes:
    return encode(noise(300, 400), 'JPEG', quality=90, **options)


def damaged() -> dict[str, bytes]:
    data = photo()
    half = len(data) // 2
    return {
        'hole': data[:half] + data[half + 2000 :],
        'cut and ended': data[:half] + b'\xff\xd9',
        'cut': data[:half],
        'zeros': data[:half] + bytes(2000) + data[half + 2000 :],
    }


@pytest.mark.parametrize('kind', damaged())
def test_damage_is_found(kind):
    with pytest.raises(ValueError, match='damaged or truncated'):
        decode(damaged()[kind])
    with pytest.raises(ValueError, match='damaged or truncated'):
        decode(damaged()[kind], channels=1)


@pytest.mark.parametrize('options', [{}, dict(progressive=True)], ids=str)
@pytest.mark.parametrize(
    'added', [b'', b'\0', b'\0' * 500, b'\x12\x34\x56'], ids=len
)
def test_padding_before_the_end_is_harmless(options, added):
    data = photo(**options)
    padded = data[:-2] + added + data[-2:]
    assert np.array_equal(decode(padded), decode(data))


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize(
    'options',
    [{}, dict(progressive=True), dict(subsampling=0), dict(quality=100)],
    ids=str,
)
def test_pixels_equal_pillows(mode, options):
    file = io.BytesIO()
    image = Image.fromarray(noise(37, 53)).convert(mode)
    image.save(file, 'JPEG', **options)
    expected = Image.open(file).convert('RGB')
    assert np.array_equal(decode(file.getvalue()), np.asarray(expected))


def test_damage_is_named_and_counted(tmp_path):
    for k in range(18):
        (tmp_path / f'{k:02}.jpg').write_bytes(photo())
    for k, name in ((18, 'hole'), (19, 'cut and ended')):
        (tmp_path / f'{k:02}.jpg').write_bytes(damaged()[name])
    load = [dict(type='LoadRGBImage')]
    dataset = ImageFolder(str(tmp_path), skip_broken=0.1, pipeline=load)
    for k in range(20):
        assert dataset[k]['img'].shape == (300, 400, 3)
    assert dataset.num_broken == 2
    strict = ImageFolder(str(tmp_path), pipeline=load)
    with pytest.raises(UnreadableImageError, match=r'18\.jpg \(the file is'):
        strict[18]


def test_without_simplejpeg_the_user_is_warned(monkeypatch):
    lines = []
    monkeypatch.setattr(
        jpeg, 'print_log', lambda text, **_: lines.append(text)
    )
    monkeypatch.setattr(jpeg, 'simplejpeg', None)
    jpeg._say_unchecked.cache_clear()
    for _ in range(2):
        assert decode(photo()).shape == (300, 400, 3)
    assert len(lines) == 1
    assert 'pip install simplejpeg' in lines[0]
