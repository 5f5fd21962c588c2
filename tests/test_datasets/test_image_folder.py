from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmpretrain.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from simim_plugin.datasets import (
    ImageFolder,
    LoadRGBImage,
    UnreadableImageError,
    image_set,
)
from simim_plugin.pictures import decode

from .sentences import one_sentence

COLOUR = (200, 120, 40)
LOAD = [dict(type='LoadRGBImage')]


def plain(mode: str = 'RGB') -> Image.Image:
    return Image.new('RGB', (24, 16), COLOUR).convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def fill(folder: Path, good: int, broken: int = 0) -> Path:
    """Write ``good`` readable images, then ``broken`` unreadable files."""
    folder.mkdir()
    for k in range(good):
        plain().save(folder / f'{k:03}.png')
    for k in range(good, good + broken):
        (folder / f'{k:03}.png').write_text('not an image')
    return folder


# The folder


def test_lists_every_image_below_the_folder(tmp_path: Path) -> None:
    names = ['a/x.JPG', 'a/b/c/y.jpeg', 'b.Png', 'c.TIFF', 'd/e.webp', 'z.bmp']
    others = ['.hidden.png', '.cache/e.png', 'a/readme.txt', 'a/jpg']
    for name in names + others:
        path = tmp_path / 'root' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    dataset = ImageFolder(str(tmp_path / 'root'))
    listed = [
        dataset.get_data_info(k)['img_path'] for k in range(len(dataset))
    ]
    assert listed == sorted(str(tmp_path / 'root' / name) for name in names)


def test_follows_links_once(tmp_path: Path) -> None:
    root = fill(tmp_path / 'root', 2)
    elsewhere = fill(tmp_path / 'elsewhere', 3)
    (root / 'inner').mkdir()
    (root / 'inner' / 'up').symlink_to(root)
    (root / 'other').symlink_to(elsewhere)
    (root / 'gone').symlink_to(tmp_path / 'nowhere')
    assert len(ImageFolder(str(root))) == 5


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / 'images', 2)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert len(ImageFolder('~/images')) == 2


def test_builds_from_a_config(tmp_path: Path) -> None:
    root = fill(tmp_path / 'images', 3)
    dataset = DATASETS.build(
        dict(type='ImageFolder', data_root=str(root), pipeline=LOAD)
    )
    assert (dataset[2]['img'] == COLOUR).all()
    assert dataset[2]['img_path'] == str(root / '002.png')
    assert len(ImageFolder(str(root), indices=2)) == 2


@pytest.mark.parametrize('root', ['nowhere', 'file', 'empty', ''])
def test_names_the_folder_without_images(tmp_path: Path, root: str) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'notes.txt').touch()
    (tmp_path / 'file').touch()
    folder = str(tmp_path / root) if root else ''
    with pytest.raises(FileNotFoundError) as caught:
        ImageFolder(folder)
    assert repr(folder) in str(caught.value)
    assert 'train_dataloader.dataset.data_root=' in str(caught.value)
    assert one_sentence(caught.value)


# The files


MODES = {
    'JPEG': ('RGB', 'L', 'CMYK', '1'),
    'PNG': ('RGB', 'L', 'RGBA', 'LA', 'P', '1'),
    'BMP': ('RGB', 'L', 'RGBA', 'P', '1'),
    'TIFF': ('RGB', 'L', 'CMYK', 'RGBA', 'LA', 'P', '1'),
    'WEBP': ('RGB', 'L', 'CMYK', 'RGBA', 'P'),
    'GIF': ('L', '1'),
}


@pytest.mark.parametrize(
    ('kind', 'mode'),
    [(kind, mode) for kind, modes in MODES.items() for mode in modes],
)
def test_every_kind_of_image_becomes_rgb(kind: str, mode: str) -> None:
    image = plain(mode)
    if mode == 'RGBA':
        image.putalpha(77)  # ignored: the colour below counts
    data = encode(
        image,
        kind,
        **({'exact': True, 'lossless': True} if kind == 'WEBP' else {}),
    )
    pixels = decode(data)
    expected = np.array(plain(mode).convert('RGB')).astype(int)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 24, 3)
    # JPEG loses little of a plain colour, more of a dithered 1-bit image.
    loss = 0 if kind != 'JPEG' else 40 if mode == '1' else 3
    assert np.abs(pixels - expected).max() <= loss


def test_palette_with_alpha_is_read_without_a_warning() -> None:
    image = plain('P')
    data = encode(image, 'PNG', transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pixels = decode(data)
    assert (pixels == np.array(image.convert('RGB'))).all()


def test_jpeg_with_more_bytes_after_its_end() -> None:
    data = encode(plain(), 'JPEG')
    assert (decode(data + b'\0\0') == decode(data)).all()


@pytest.mark.shared
def test_jpegs_equal_pillows_bit_for_bit(shared: Path) -> None:
    files = sorted((shared / 'data/imagenet_sample/images').iterdir())[::5]
    for file in files:
        expected = np.array(Image.open(file).convert('RGB'))
        assert (decode(file.read_bytes()) == expected).all()


def broken_files(folder: Path) -> dict[str, Path]:
    photo = Image.effect_noise((100, 100), 50)
    jpeg = encode(photo.convert('RGB'), 'JPEG')
    contents = {
        'no image format': b'not an image',
        'no image format ': b'',
        'truncated': jpeg[: len(jpeg) // 2],
        'truncated ': jpeg[:-200],
        'truncated  ': encode(photo, 'PNG')[:1000],
        'floats': encode(photo.convert('F'), 'TIFF'),
    }
    files = {}
    for k, (reason, data) in enumerate(contents.items()):
        files[reason] = folder / f'{k}.jpg'
        files[reason].write_bytes(data)
    files['No such file'] = folder / 'gone.jpg'
    files['directory'] = folder
    return files


def test_names_an_unreadable_file(tmp_path: Path) -> None:
    for reason, path in broken_files(tmp_path).items():
        with pytest.raises(UnreadableImageError) as caught:
            LoadRGBImage()({'img_path': str(path)})
        assert f' {path} (' in str(caught.value)
        assert reason.strip() in str(caught.value)
        assert 'skip_broken' in str(caught.value)
        assert one_sentence(caught.value)


def test_refuses_images_that_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'bomb.jpg'
    plain().save(path)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 24 * 16 // 2 - 1)
    with pytest.raises(
        UnreadableImageError, match=r'bomb\.jpg .*bomb'
    ) as caught:
        LoadRGBImage()({'img_path': str(path)})
    assert one_sentence(caught.value)


# Broken files in a dataset


def test_a_broken_file_stops_the_run_by_default(tmp_path: Path) -> None:
    dataset = ImageFolder(str(fill(tmp_path / 'root', 9, 1)), pipeline=LOAD)
    assert (dataset[0]['img'] == COLOUR).all()
    with pytest.raises(UnreadableImageError, match=r'009\.png'):
        dataset[9]


def test_skips_and_counts_broken_files_within_the_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(
        image_set, 'print_log', lambda text, **_: log.append(text)
    )
    root = fill(tmp_path / 'root', 18, 2)
    dataset = ImageFolder(str(root), skip_broken=0.1, pipeline=LOAD)
    for _ in range(3):  # epochs; a file counts once
        for k in range(20):
            assert (dataset[k]['img'] == COLOUR).all()
    assert dataset.num_broken == 2
    first, second = sorted(log)
    assert first.startswith('Skipped broken image 1 of 20: ')
    assert second.startswith('Skipped broken image 2 of 20: ')
    assert '018.png' in first + second
    assert '019.png' in first + second


def test_more_broken_files_than_the_share_stop_the_run(tmp_path: Path) -> None:
    root = fill(tmp_path / 'root', 18, 2)
    dataset = ImageFolder(str(root), skip_broken=0.05, pipeline=LOAD)

    with pytest.raises(UnreadableImageError) as caught:
        for k in range(20):
            dataset[k]
    for part in ('2 of the 20', str(root), 'skip_broken=0.05', '019.png'):
        assert part in str(caught.value)
    assert one_sentence(caught.value)


@pytest.mark.parametrize(('share', 'stops'), [(0.1, False), (0.05, True)])
def test_workers_count_together(
    tmp_path: Path, share: float, stops: bool
) -> None:
    """Different workers load the two broken files."""
    root = fill(tmp_path / 'root', 18, 2)
    dataset = ImageFolder(str(root), skip_broken=share, pipeline=LOAD)
    loader = DataLoader(
        dataset,
        batch_size=1,
        num_workers=2,
        sampler=[0, 1, 18, 2, 3, 19, 4, 5],  # workers take turns
        collate_fn=pseudo_collate,
    )
    if stops:
        with pytest.raises(UnreadableImageError, match='2 of the 20'):
            list(loader)
    else:
        assert len(list(loader)) == 8
        assert dataset.num_broken == 2


def test_processes_count_together_after_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither process alone finds too many of the 3 broken files."""
    root = fill(tmp_path / 'root', 17, 3)
    one, two = (
        ImageFolder(str(root), skip_broken=0.1, pipeline=LOAD)
        for _ in range(2)
    )
    monkeypatch.setattr(
        image_set, 'all_reduce', lambda flags, op: flags.copy_(seen)
    )
    # prepare_data loads no replacement, which could be broken too.
    for dataset, index in ((one, 17), (two, 18), (two, 19)):
        assert dataset.prepare_data(index) is None
    for dataset, count in ((one, 1), (two, 2)):
        seen = dataset._broken.clone()
        dataset.count_together()
        assert dataset.num_broken == count
    seen = torch.maximum(one._broken, two._broken)
    with pytest.raises(UnreadableImageError, match='3 of the 20') as caught:
        one.count_together()
    assert one_sentence(caught.value)


@pytest.mark.parametrize('share', [-0.1, 1.5])
def test_share_out_of_range_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(ValueError, match='not a share') as caught:
        ImageFolder(str(tmp_path), skip_broken=share)
    assert one_sentence(caught.value)


def test_prints_at_most_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    ImageFolder(str(fill(tmp_path / 'root', 3)))
    assert capfd.readouterr().out.count('\n') <= 1
