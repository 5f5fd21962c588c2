from __future__ import annotations

import errno
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import CIFAR10
from PIL import Image
from skimage.filters import gaussian

from simim_plugin.commands.corrupt import main
from simim_plugin.datasets import corruptions
from simim_plugin.datasets.corruptions import corrupt, make_corruptions
from simim_plugin.datasets.robustness import CORRUPTIONS, SEVERITIES
from simim_plugin.errors import SimimError

from .sentences import one_sentence

imagecorruptions = pytest.importorskip('imagecorruptions')


def picture(size: int = 32, seed: int = 0) -> np.ndarray:
    """Draw blotches in mid-tones, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size)))


def distance(image: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(image.astype(float) - other).mean())


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A folder of two classes and three images, one of them a PNG."""
    root = tmp_path / 'clean'
    for seed, name in enumerate(['ant/0.JPEG', 'ant/1.png', 'bee/0.jpg']):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed=seed)).save(path)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


# One image


@pytest.mark.parametrize('size', [32, 64])
@pytest.mark.parametrize('corruption', CORRUPTIONS)
def test_every_corruption_is_deterministic(corruption, size):
    image = picture(size)
    before = image.copy()
    for severity in SEVERITIES:
        first, again, other = (
            corrupt(image, corruption, severity, seed) for seed in (7, 7, 8)
        )
        assert first.shape == image.shape and first.dtype == np.uint8
        assert np.array_equal(first, again)
        assert distance(first, image) > 0
        random = not np.array_equal(first, other)
        assert random == (corruption not in DETERMINISTIC)
    assert np.array_equal(image, before)


DETERMINISTIC = (
    'defocus_blur',
    'zoom_blur',
    'brightness',
    'contrast',
    'pixelate',
    'jpeg_compression',
)


def test_restores_numpys_random_state():
    np.random.seed(3)
    expected = np.random.random(4)
    np.random.seed(3)
    corrupt(picture(), 'frost', 1, seed=0)
    assert np.array_equal(np.random.random(4), expected)


def test_names_equal_the_packages_in_its_order():
    assert list(CORRUPTIONS) == imagecorruptions.get_corruption_names()


@pytest.mark.shared
@pytest.mark.parametrize(
    'corruption',
    [
        'gaussian_noise',
        'shot_noise',
        'impulse_noise',
        'defocus_blur',
        'brightness',
        'contrast',
    ],
)
def test_distance_to_photographs_grows_with_severity(shared, corruption):
    """This holds for noise, brightness, contrast and defocus.

    It does not hold for the other nine: snow is heavier at severity 2 than
    at 3, and frost draws another picture each time.
    """
    folder = shared / 'data' / 'imagenet_sample' / 'images'
    for path in sorted(folder.iterdir())[::50]:
        image = np.asarray(Image.open(path).convert('RGB').resize((96, 96)))
        steps = [
            distance(corrupt(image, corruption, severity, 0), image)
            for severity in SEVERITIES
        ]
        assert steps == sorted(steps) and steps[0] < steps[-1]


def test_contrast_moves_every_pixel_to_the_mean():
    image = picture()
    mean = image.mean(axis=(0, 1))
    expected = mean + 0.05 * (image - mean)
    found = corrupt(image, 'contrast', 5, seed=0)
    assert np.abs(found - expected).max() <= 1  # truncation


def test_restores_interfaces_that_libraries_dropped(monkeypatch):
    """Test the lines of imagecorruptions 1.1.2 that fail today.

    The fork has other lines, which are replaced here.
    """
    module = sys.modules['imagecorruptions.corruptions']
    image = picture() / 255

    def glass_blur(x, severity):
        return 255 * module.gaussian(image, sigma=2, multichannel=True)

    def fog(x, severity):
        return 255 * image.astype(module.np.float_)

    def impulse_noise(x, severity):
        noisy = module.sk.util.random_noise(image, mode='s&p', amount=0.2)
        return 255 * noisy

    def elastic_transform(x, severity):
        return 255 * module.gaussian(image, [1, 1, 0], mode='reflect')

    for old in (glass_blur, fog, impulse_noise, elastic_transform):
        monkeypatch.setitem(
            imagecorruptions.corruption_dict, old.__name__, old
        )
    blurred = np.uint8(255 * gaussian(image, sigma=2, channel_axis=-1))
    assert np.array_equal(corrupt(picture(), 'glass_blur', 1, 0), blurred)
    assert np.array_equal(
        corrupt(picture(), 'fog', 1, 0), np.uint8(255 * image)
    )
    untouched = np.uint8(255 * gaussian(image, [1, 1, 0], mode='reflect'))
    assert np.array_equal(
        corrupt(picture(), 'elastic_transform', 1, 0), untouched
    )
    first, again, other = (
        corrupt(picture(), 'impulse_noise', 1, seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_libraries_are_unchanged_afterwards():
    module = sys.modules['imagecorruptions.corruptions']
    before = module.gaussian, module.sk.util.random_noise
    float_ = hasattr(np, 'float_')
    corrupt(picture(), 'fog', 1, 0)
    assert (module.gaussian, module.sk.util.random_noise) == before
    assert hasattr(np, 'float_') == float_


def test_missing_package_names_the_command(monkeypatch, clean, tmp_path):
    monkeypatch.setitem(sys.modules, 'imagecorruptions', None)
    with pytest.raises(ImportError, match=r'pip install .*imagecorruptions'):
        make_corruptions(clean, tmp_path / 'out')


# A folder


def test_writes_the_layout_of_imagenet_c(clean, tmp_path):
    out = tmp_path / 'out'
    assert make_corruptions(clean, out)
    found = files(out)
    names = ['ant/0.JPEG', 'ant/1.png.jpg', 'bee/0.jpg']
    assert found.keys() - {'manifest.json'} == {
        f'{corruption}/{severity}/{name}'
        for corruption in CORRUPTIONS
        for severity in SEVERITIES
        for name in names
    }
    with Image.open(out / 'fog/3/bee/0.jpg') as image:
        assert (image.format, image.mode, image.size) == (
            'JPEG',
            'RGB',
            (32, 32),
        )
        tables = image.quantization
    Image.new('RGB', (8, 8)).save(tmp_path / 'quality.jpg', quality=85)
    with Image.open(tmp_path / 'quality.jpg') as image:
        assert tables == image.quantization
    dark, bright = (
        np.asarray(Image.open(folder / 'bee/0.jpg')).mean()
        for folder in (clean, out / 'brightness/5')
    )
    assert bright > dark + 40


def test_files_depend_on_the_seed_and_not_on_the_processes(clean, tmp_path):
    for name, options in dict(
        one={}, two=dict(num_workers=2), other=dict(seed=1)
    ).items():
        make_corruptions(clean, tmp_path / name, **options)
    one, two, other = (files(tmp_path / n) for n in ('one', 'two', 'other'))
    assert one == two
    noise = 'gaussian_noise/1/bee/0.jpg'
    assert one[noise] != other[noise]


def test_every_file_has_its_own_draw(tmp_path):
    for name in 'xy':
        (tmp_path / 'clean' / 'a').mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture()).save(tmp_path / f'clean/a/{name}.png')
    make_corruptions(tmp_path / 'clean', tmp_path / 'out')
    found = files(tmp_path / 'out')
    for severity in SEVERITIES:
        x, y = (found[f'fog/{severity}/a/{n}.png.jpg'] for n in 'xy')
        assert x != y
        x, y = (found[f'contrast/{severity}/a/{n}.png.jpg'] for n in 'xy')
        assert x == y


def test_resizes_the_short_edge_and_crops_the_centre(tmp_path):
    """A size of 96 resizes to 110 px; a wide image loses its sides."""
    (tmp_path / 'clean' / 'a').mkdir(parents=True)
    wide = np.zeros((220, 440, 3), np.uint8)
    wide[:, 124:-124] = 255  # 192 px, which become the 96 of the crop
    Image.fromarray(wide).save(tmp_path / 'clean' / 'a' / 'x.png')
    make_corruptions(tmp_path / 'clean', tmp_path / 'out', size=96)
    path = tmp_path / 'out' / 'jpeg_compression' / '1' / 'a' / 'x.png.jpg'
    image = np.asarray(Image.open(path))
    assert image.shape == (96, 96, 3)
    assert image[:, 2:-2].min() > 240


def test_continues_a_stopped_run(clean, tmp_path, monkeypatch):
    make_corruptions(clean, tmp_path / 'whole')
    calls = []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 100:
            raise KeyboardInterrupt
        return corrupt(*args)

    out = tmp_path / 'out'
    with monkeypatch.context() as patch:
        patch.setattr(corruptions, 'corrupt', stopped)
        with pytest.raises(KeyboardInterrupt):
            make_corruptions(clean, out)
        assert not out.exists()
        calls.clear()
        calls.append('no call is the 100th now')
        patch.setattr(
            corruptions,
            'corrupt',
            lambda *args: calls.append(args) or corrupt(*args),
        )
        assert make_corruptions(clean, out)
    assert len(calls) == 1 + 3 * 75 - 99
    assert files(out) == files(tmp_path / 'whole')
    assert not (tmp_path / '.out.partial').exists()
    assert make_corruptions(clean, out) is False


def test_refuses_a_folder_with_other_files(clean, tmp_path):
    out = tmp_path / 'out'
    make_corruptions(clean, out)
    before = files(out)
    with pytest.raises(SimimError, match='choose another folder') as error:
        make_corruptions(clean, out, seed=1)
    assert one_sentence(error.value) and files(out) == before
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'thesis.txt').write_text('mine')
    with pytest.raises(SimimError, match='no set of corruptions') as error:
        make_corruptions(clean, mine)
    assert one_sentence(error.value)
    assert files(mine) == {'thesis.txt': b'mine'}


def test_refuses_to_write_among_the_classes(clean, tmp_path):
    (tmp_path / 'link').symlink_to(clean)
    for out in (clean, clean / 'corrupted', tmp_path / 'link' / 'ant' / 'c'):
        with pytest.raises(SimimError, match='folder beside it') as error:
            make_corruptions(clean, out)
        assert one_sentence(error.value)
    assert len(files(clean)) == 3


@pytest.mark.parametrize('workers', [0, 1])
def test_names_an_image_that_is_too_small(clean, tmp_path, workers, capsys):
    Image.new('RGB', (31, 40)).save(clean / 'bee' / '5.png')
    argv = [str(clean), str(tmp_path / 'out'), '--workers', str(workers)]
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith('error: The image bee/5.png.jpg has 31 x 40')
    assert not (tmp_path / 'out').exists()


def test_full_disk_is_reported_in_a_sentence(clean, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(SimimError, match='full: free some space') as error:
        make_corruptions(clean, tmp_path / 'out')
    assert one_sentence(error.value)


@pytest.mark.parametrize(
    'options', [dict(size=31), dict(seed=-1)], ids=['size', 'seed']
)
def test_refuses_arguments_out_of_range(clean, tmp_path, options):
    with pytest.raises(SimimError, match='at least 32 pixels') as error:
        make_corruptions(clean, tmp_path / 'out', **options)
    assert one_sentence(error.value)


@pytest.mark.parametrize('layout', ['', 'clean', 'clean/ant'])
def test_refuses_a_folder_without_images(tmp_path, layout):
    (tmp_path / layout).mkdir(parents=True, exist_ok=True)
    with pytest.raises(SimimError) as error:
        make_corruptions(tmp_path / 'clean', tmp_path / 'out')
    assert one_sentence(error.value)


def test_corrupts_the_test_set_of_cifar_10(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    folder = tmp_path / 'cifar10' / 'cifar-10-batches-py'
    folder.mkdir(parents=True)
    pixels = np.stack([picture(seed=0), picture(seed=1)])  # N, H, W, C
    batch = dict(
        data=pixels.transpose(0, 3, 1, 2).reshape(2, -1), labels=[3, 0]
    )
    (folder / 'test_batch').write_bytes(pickle.dumps(batch))
    out = tmp_path / 'out'
    make_corruptions(tmp_path / 'cifar10', out)
    found = {p.relative_to(out).as_posix() for p in out.rglob('*.jpg')}
    assert len(found) == 75 * 2
    assert {name for name in found if name.startswith('contrast/1')} == {
        'contrast/1/airplane/00001.jpg',
        'contrast/1/cat/00000.jpg',
    }
    cat = np.asarray(Image.open(out / 'contrast/1/cat/00000.jpg'))
    assert distance(cat, corrupt(pixels[0], 'contrast', 1, 0)) < 5
