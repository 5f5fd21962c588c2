"""Pictures in zip and tar files."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from simim_plugin.datasets import ImageFolder, UnreadableImageError
from simim_plugin.datasets.fingerprint import fingerprint_of
from simim_plugin.datasets.labelled_folder import LabelledFolder
from simim_plugin.errors import SimimError
from simim_plugin.pictures import archives, read_file
from simim_plugin.pictures.listing import FEWEST, keeping_lists

from .sentences import one_sentence

LOAD = [dict(type='LoadRGBImage')]
NAMES = ['a/x 1.png', 'a/ü.png', 'b/c/z.png', 'b/y.png']
PACKERS = ['stored', 'deflated', 'tar']


def picture(seed: int) -> bytes:
    levels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, 'PNG')
    return file.getvalue()


def pack(file: Path, contents: dict[str, bytes], how: str = '') -> Path:
    """Write an archive, in the order of the contents."""
    if file.suffix == '.tar':
        with tarfile.open(file, 'w') as tar:
            for name, data in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return file
    kind = zipfile.ZIP_DEFLATED if how == 'deflated' else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, 'w') as opened:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = kind
            with opened.open(info, 'w', force_zip64=how == 'zip64') as member:
                member.write(data)
    return file


def archive(folder: Path, how: str, contents: dict[str, bytes]) -> Path:
    return pack(
        folder / f'set.{"tar" if how == "tar" else "zip"}', contents, how
    )


@pytest.fixture
def contents() -> dict[str, bytes]:
    return {name: picture(k) for k, name in enumerate(NAMES)}


@pytest.fixture
def folder(tmp_path: Path, contents) -> Path:
    for name, data in contents.items():
        path = tmp_path / 'set' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / 'set'


def inner(dataset) -> list[str]:
    start = len(dataset.data_root) + 1
    paths = [dataset.get_data_info(k)['img_path'] for k in range(len(dataset))]
    return [path[start:] for path in paths]


@pytest.mark.parametrize('how', [*PACKERS, 'zip64'])
def test_an_archive_equals_its_folder(how, tmp_path, contents, folder):
    extra = {
        '__MACOSX/a/._x 1.png': b'',
        '.hidden/h.png': b'',
        'notes.txt': b'1',
        '../out.png': picture(9),
        '/abs.png': picture(9),
    }
    backwards = dict(reversed(contents.items()))
    file = archive(tmp_path, how, extra | backwards)
    one = ImageFolder(str(folder), pipeline=LOAD)
    two = ImageFolder(str(file), pipeline=LOAD)
    assert inner(one) == inner(two) == NAMES
    for k in range(len(NAMES)):
        assert (one[k]['img'] == two[k]['img']).all()
        assert read_file(f'{file}/{NAMES[k]}') == contents[NAMES[k]]


@pytest.mark.parametrize('how', PACKERS)
def test_pairs_are_bit_equal(how, tmp_path, contents, folder):
    steps = [*LOAD, dict(type='PairedViews', size=8)]
    file = archive(tmp_path, how, contents)
    drawn = []
    for root in (folder, file):
        dataset = ImageFolder(str(root), pipeline=steps)
        np.random.seed(0)
        random.seed(0)
        torch.manual_seed(0)
        order = DataLoader(
            range(len(dataset)),
            shuffle=True,
            generator=torch.Generator().manual_seed(3),
        )
        drawn.append([dataset[int(k)]['img'] for k in order])
    for one, two in zip(*drawn, strict=True):
        assert all((a == b).all() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_workers_read_many_shards(method, tmp_path, contents, monkeypatch):
    for k, (name, data) in enumerate(contents.items()):
        pack(tmp_path / f's-{k:03}.tar', {name: data, f'q{k}.png': data})
    root = f'{tmp_path}/s-{{000..003}}.tar'
    dataset = ImageFolder(root, pipeline=LOAD)
    assert len(dataset) == 8
    assert inner(ImageFolder(str(tmp_path)))[0] == 's-000.tar/a/x 1.png'
    loader = DataLoader(
        dataset,
        num_workers=2,
        batch_size=None,
        multiprocessing_context=method,
    )
    for k, item in enumerate(loader):
        assert (np.asarray(item['img']) == dataset[k]['img']).all()


def test_handles_are_few(tmp_path):
    names = [f'{k:03}.tar' for k in range(archives.Limits.OPEN + 40)]
    for k, name in enumerate(names):
        pack(tmp_path / name, {'x.png': picture(k % 3)})
    before = len(os.listdir('/proc/self/fd'))
    dataset = ImageFolder(str(tmp_path), pipeline=LOAD)
    for k in range(len(names)):
        dataset[k]
    now = len(os.listdir('/proc/self/fd'))
    assert now - before <= archives.Limits.OPEN + 2


@pytest.mark.parametrize('how', PACKERS)
def test_broken_pictures_are_named_and_skipped(how, tmp_path, contents):
    contents['a/broken.png'] = b'not a picture'
    file = archive(tmp_path, how, contents)
    dataset = ImageFolder(str(file), pipeline=LOAD)
    with pytest.raises(
        UnreadableImageError, match=rf'{file.name}/a/broken\.png'
    ):
        dataset[0]
    skipping = ImageFolder(str(file), pipeline=LOAD, skip_broken=0.5)
    for k in range(len(skipping)):
        skipping[k]
    assert skipping.num_broken == 1


def test_the_last_of_repeated_names_counts(tmp_path, capsys):
    with tarfile.open(tmp_path / 'x.tar', 'w') as tar:
        for k in (1, 2):
            info = tarfile.TarInfo('a.png')
            info.size = len(picture(k))
            tar.addfile(info, io.BytesIO(picture(k)))
        link = tarfile.TarInfo('link.png')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        tar.addfile(link)
    file = tmp_path / 'x.tar'
    census = archives.Census()
    assert [*archives.list_archive(str(file), census=census)] == ['a.png']
    assert census.left == {'links': 1, 'of repeated names': 1}
    assert read_file(f'{file}/a.png') == picture(2)


def damaged_zip(data: bytes, at: int, form: str, value: int) -> bytes:
    """Change a field of the first entry of the central directory."""
    place = data.index(b'PK\1\2') + at
    size = struct.calcsize(form)
    return data[:place] + struct.pack(form, value) + data[place + size :]


HOSTILE = {
    'cut zip': ('x.zip', lambda d: d[:-30]),
    'not a zip': ('x.zip', lambda d: b'hello'),
    'empty': ('x.zip', lambda d: b''),
    'encrypted': ('x.zip', lambda d: damaged_zip(d, 8, '<H', 1)),
    'lzma': ('x.zip', lambda d: damaged_zip(d, 10, '<H', 14)),
    'bomb': ('x.zip', lambda d: damaged_zip(d, 24, '<L', 2**31)),
    'long': ('x.zip', lambda d: damaged_zip(d, 20, '<L', 2**30)),
    'far': ('x.zip', lambda d: damaged_zip(d, 42, '<L', 2**30)),
    'cut tar': ('x.tar', lambda d: d[:700]),
    'tar without end': ('x.tar', lambda d: d[:1024]),
    'damaged tar': ('x.tar', lambda d: d[:1100] + b'\1' + d[1101:]),
    'two tars': ('x.tar', lambda d: d + d),
    'compressed': ('x.tar', gzip.compress),
    'compressed by name': ('x.tar.gz', gzip.compress),
    'random': ('x.tar', lambda d: bytes(range(256)) * 9),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_archives_end_in_one_sentence(case, tmp_path):
    name, change = HOSTILE[case]
    kind = 'tar' if '.tar' in name else 'zip'
    whole = pack(tmp_path / f'whole.{kind}', {'a.png': picture(0)[:400]})
    file = tmp_path / 'in' / name
    file.parent.mkdir()
    file.write_bytes(change(whole.read_bytes()))
    for root in (file, file.parent):
        with pytest.raises(SimimError) as error:
            ImageFolder(str(root))
        assert one_sentence(error.value)


@pytest.mark.parametrize('how', PACKERS)
def test_an_archive_that_changes_is_noticed(how, tmp_path, contents):
    file = archive(tmp_path, how, contents)
    dataset = ImageFolder(str(file), pipeline=LOAD)
    before = fingerprint_of(dataset)
    file.unlink()
    contents[NAMES[0]] = picture(99) + b'12'
    archive(tmp_path, how, dict(reversed(contents.items())))
    with pytest.raises(UnreadableImageError, match=r'changed|damaged'):
        dataset[len(NAMES) - 1]
    assert fingerprint_of(ImageFolder(str(file))) != before


# Labels


@pytest.mark.parametrize('top', ['', 'photos/'])
@pytest.mark.parametrize('how', PACKERS)
def test_class_folders_in_an_archive(how, top, tmp_path, contents, folder):
    packed = {top + name: data for name, data in contents.items()}
    file = archive(tmp_path, how, packed)
    one = LabelledFolder(str(folder), pipeline=LOAD)
    two = LabelledFolder(str(file), pipeline=LOAD)
    assert two.metainfo['classes'] == one.metainfo['classes'] == ('a', 'b')
    assert [two[k]['gt_label'] for k in range(4)] == [0, 0, 1, 1]
    assert (two[3]['img'] == one[3]['img']).all()


def test_splits_of_one_archive(tmp_path, contents):
    packed = {
        f'{split}/{name}': data
        for split in ('train', 'val')
        for name, data in contents.items()
    }
    file = archive(tmp_path, 'stored', packed)
    for split in ('train', 'val'):
        dataset = LabelledFolder(f'{file}/{split}', pipeline=LOAD)
        assert dataset.metainfo['classes'] == ('a', 'b')
        assert len(dataset) == 4
        dataset[0]


def test_archives_of_one_class_each(tmp_path):
    for k, name in enumerate(('n1', 'n2')):
        pack(tmp_path / f'{name}.tar', {'x.png': picture(k)})
    dataset = LabelledFolder(str(tmp_path), pipeline=LOAD)
    assert dataset.metainfo['classes'] == ('n1', 'n2')


def test_webdataset_labels_are_the_numbers(tmp_path):
    for k in range(2):
        pack(
            tmp_path / f's-{k}.tar',
            {
                f'{k}1.png': picture(1),
                f'{k}1.cls': b'3\n',
                f'{k}2.cls': str(k).encode(),
                f'{k}2.png': picture(2),
            },
        )
    dataset = LabelledFolder(f'{tmp_path}/s-{{0..1}}.tar', pipeline=LOAD)
    assert dataset.metainfo['classes'] == ('0', '1', '2', '3')
    assert [item['gt_label'] for item in dataset] == [0, 1, 3, 3]


@pytest.mark.parametrize(
    ('contents', 'words'),
    [
        ({'1.png': b'', '1.cls': b'x'}, 'holds no class'),
        ({'1.png': b'', '1.cls': b'-1'}, 'holds no class'),
        ({'1.png': b'', '1.cls': b'1' * 99}, 'holds no class'),
        ({'1.png': b'', '2.png': b'', '1.cls': b'1'}, 'no label file'),
        ({'1.png': b'', 'a/2.png': b''}, 'in no class folder'),
    ],
    ids=['text', 'negative', 'long', 'missing', 'no folder'],
)
def test_wrong_labels_end_in_one_sentence(contents, words, tmp_path):
    pack(tmp_path / 'x.tar', contents)
    with pytest.raises(SimimError, match=words) as error:
        LabelledFolder(str(tmp_path / 'x.tar'))
    assert one_sentence(error.value)


@pytest.mark.parametrize('pattern', ['s-{0..3}.tar', 's-{9..1}.tar'])
def test_missing_shards_are_named(pattern, tmp_path):
    pack(tmp_path / 's-0.tar', {'a.png': b''})
    with pytest.raises(SimimError, match=r'missing|names') as error:
        ImageFolder(str(tmp_path / pattern))
    assert one_sentence(error.value)


def test_an_archive_beside_pictures_is_left(tmp_path, contents, folder):
    pack(folder / 'again.zip', contents)
    assert len(ImageFolder(str(folder))) == len(NAMES)


# Kept lists


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for k in range(FEWEST):
        path = tmp_path / 'many' / f'{k % 4}' / f'{k}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    age(tmp_path / 'many')
    return tmp_path / 'many'


def age(folder: Path) -> None:
    """Make folders older than their time stamps can blur."""
    for path in [folder, *filter(Path.is_dir, folder.rglob('*'))]:
        os.utime(path, (1e9, 1e9))


@pytest.mark.parametrize('kind', [ImageFolder, LabelledFolder])
def test_a_list_is_kept_until_a_folder_changes(kind, many, monkeypatch):
    def paths(relist: bool = False) -> list[str]:
        with keeping_lists(many.parent / '.listings', relist):
            return inner(kind(str(many)))

    first = paths()
    [file] = (many.parent / '.listings').iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, 'walk', lambda *a, **k: pytest.fail('walked'))
        assert paths() == first
    kept = file.read_text()
    for damage in (kept[:-9], '{}', '[]', kept.replace('"groups"', '"g"')):
        file.write_text(damage)
        assert paths() == first
    (many / '2' / 'new.png').touch()
    assert len(paths()) == FEWEST + 1
    age(many)
    file.write_text(kept.replace('/many/1/1.png', '/many/1/gone.png'))
    os.utime(many / '2', ns=(1, 2))
    assert len(paths(relist=True)) == FEWEST + 1


def test_a_fresh_folder_is_not_kept(many):
    (many / '1' / 'new.png').touch()
    with keeping_lists(many.parent / '.listings'):
        ImageFolder(str(many))
    assert not (many.parent / '.listings').exists()


@pytest.mark.parametrize('how', PACKERS)
def test_the_index_of_an_archive_is_kept(how, tmp_path, monkeypatch):
    data = picture(1)
    file = archive(tmp_path, how, {f'{k}.png': data for k in range(FEWEST)})
    os.utime(file, (1e9, 1e9))
    with keeping_lists(tmp_path / '.listings'):
        first = ImageFolder(str(file), pipeline=LOAD)
        with monkeypatch.context() as patch:
            patch.setattr(
                archives, '_members', lambda *a: pytest.fail('indexed')
            )
            again = ImageFolder(str(file), pipeline=LOAD)
    assert fingerprint_of(again) == fingerprint_of(first)
    assert (again[7]['img'] == first[7]['img']).all()


@pytest.mark.parametrize(
    ('archives', 'classes'),
    [
        (
            {
                'cats': ['cats/indoor/1', 'cats/outdoor/2'],
                'dogs': ['dogs/indoor/3', 'dogs/outdoor/4'],
            },
            ('cats', 'dogs'),
        ),
        (
            {
                's-0': ['cat/day1/1', 'cat/day1/2'],
                's-1': ['cat/day2/3', 'dog/day1/4'],
            },
            ('cat', 'dog'),
        ),
        (
            {'a': ['all/cat/1'], 'b': ['all/dog/2', 'all/cat/3']},
            ('cat', 'dog'),
        ),
        ({'ant': ['images/1'], 'bee': ['images/2']}, ('ant', 'bee')),
    ],
    ids=['folders', 'shards', 'top', 'names'],
)
def test_classes_of_several_archives_have_one_level(
    tmp_path, archives, classes
):
    """As if all were unpacked into one folder."""
    for archive, names in archives.items():
        content = {f'{name}.png': picture(k) for k, name in enumerate(names)}
        pack(tmp_path / f'{archive}.tar', content)
    dataset = LabelledFolder(str(tmp_path), pipeline=LOAD)
    assert dataset.metainfo['classes'] == classes
    for k in range(len(dataset)):
        info = dataset.get_data_info(k)
        assert f'/{classes[info["gt_label"]]}' in info['img_path']


def test_pictures_of_two_levels_are_refused(tmp_path):
    pack(tmp_path / 'a.tar', {'cat/1.png': picture(0)})
    pack(tmp_path / 'b.tar', {'2.png': picture(1)})
    with pytest.raises(SimimError, match=r'b\.tar/2\.png is in no class fold'):
        LabelledFolder(str(tmp_path), pipeline=LOAD)


def test_a_kept_list_does_not_change_the_names(many, monkeypatch):
    """The same folder by its relative and by its whole path."""
    monkeypatch.chdir(many.parent)
    with keeping_lists(many.parent / '.listings'):
        found = [ImageFolder(str(root)) for root in ('many', many, 'many')]
    assert len({one.fingerprint for one in found}) == 1
    assert found[0].fingerprint == ImageFolder(str(many)).fingerprint
    assert found[2].get_data_info(0)['img_path'].startswith('many/')
