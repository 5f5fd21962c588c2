"""All data sets find the same images below a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from simim_plugin.commands.visualize import find_images
from simim_plugin.datasets import (
    ImageFolder,
    LabelledFolder,
    labelled_folder,
)
from simim_plugin.datasets.robustness import labelled_images
from simim_plugin.errors import SimimError
from simim_plugin.pictures import listing, walking
from simim_plugin.pictures.walking import (
    EXTENSIONS,
    SYSTEM_FOLDERS,
    class_labels,
    list_images,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Every extension, hidden names, and links to folders, one a circle."""
    names = [f'ant/{k}{end}' for k, end in enumerate(EXTENSIONS)]
    names += ['bee/inner/UPPER.PNG', 'bee/notes.txt', 'bee/.hidden.png']
    for name in [*names, '.cache/0.png', 'bee/.cache/0.png']:
        path = tmp_path / 'root' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'root/bee/inner/up').symlink_to(tmp_path / 'root/bee')
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere/0.jpg').touch()
    (tmp_path / 'root/cat').symlink_to(tmp_path / 'elsewhere')
    return tmp_path / 'root'


def test_all_data_sets_find_the_same_images(root: Path) -> None:
    labels = class_labels(root)
    assert labels == {'ant': 0, 'bee': 1, 'cat': 2}
    ants = sorted(f'ant/{k}{end}' for k, end in enumerate(EXTENSIONS))
    names = [*ants, 'bee/inner/UPPER.PNG', 'cat/0.jpg']
    expected = [str(root / name) for name in names]
    found = labelled_images(root, labels)
    assert [path for path, _ in found] == expected
    assert [label for _, label in found] == [0] * len(ants) + [1, 2]
    for kind in (ImageFolder, LabelledFolder):
        assert [info['img_path'] for info in kind(str(root))] == expected
    assert [str(path) for path in find_images([root], 64)] == expected


def test_extensions_of_a_labelled_folder_may_be_given(root: Path) -> None:
    dataset = LabelledFolder(str(root), extensions=('.jpg', '.png'))
    assert len(dataset) == 4


def test_a_folder_without_classes_is_refused(root: Path) -> None:
    with pytest.raises(SimimError, match='no folder of classes'):
        class_labels(root / 'ant')


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    for module in (walking, labelled_folder):
        monkeypatch.setattr(
            module, 'print_log', lambda text, *_, **__: found.append(text)
        )
    return found


@pytest.mark.parametrize('kind', [ImageFolder, LabelledFolder])
def test_the_start_counts_files_by_ending(
    tmp_path: Path, kind: type, lines: list[str]
) -> None:
    touch(tmp_path, 'a/0.jpg', 'a/1.JPG', 'b/2.jfif', 'b/3.webp')
    touch(tmp_path, 'a/x.txt', 'a/y.psd', 'b/z.TXT', 'b/README', 'b/.hidden')
    kind(str(tmp_path))
    assert lines == [
        f'Found 4 images (2 .jpg, 1 .jfif, 1 .webp) in {tmp_path}; left 4 '
        'other files (2 .txt, 1 without ending, 1 .psd).'
    ]


@pytest.mark.skipif(os.name == 'nt', reason='folders of POSIX')
@pytest.mark.parametrize('kind', [ImageFolder, LabelledFolder, list_images])
def test_a_folder_that_may_not_be_listed_is_named(
    tmp_path: Path, kind: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, 'open/0.jpg', 'locked/0.jpg', 'open/inner/1.jpg')
    # The tests may run as root, who may list everything.
    scandir = os.scandir

    def refuse(path: str) -> object:
        if os.fspath(path).endswith(locked):
            raise PermissionError(13, 'Permission denied', os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    for locked in ('locked', 'inner'):
        with pytest.raises(SimimError, match=f'{locked} .Permission denied'):
            kind(str(tmp_path))


def test_folders_of_systems_are_no_classes(
    tmp_path: Path, lines: list[str]
) -> None:
    touch(tmp_path, 'cat/0.jpg', 'dog/0.jpg', 'dog/__MACOSX/._0.jpg')
    for name in (*SYSTEM_FOLDERS, '__MACOSX', '@eaDir', '.git', '.thumbs'):
        touch(tmp_path, f'{name}/0.jpg', f'cat/{name}/0.jpg')
    touch(tmp_path, 'notes/a.txt', 'empty/x')
    dataset = LabelledFolder(str(tmp_path))
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    assert class_labels(tmp_path) == {'cat': 0, 'dog': 1}
    assert len(dataset) == len(ImageFolder(str(tmp_path))) == 2
    (note,) = (text for text in lines if 'no classes' in text)
    assert note.endswith('no classes: empty, notes.')


@pytest.mark.parametrize(
    ('link', 'target'),
    [('cat/up', '..'), ('cat/up', '../..'), ('all', '.'), ('self', 'self')],
)
def test_links_that_mix_classes_are_refused(
    tmp_path: Path, link: str, target: str
) -> None:
    root = tmp_path / 'root'
    touch(root, 'cat/0.jpg', 'dog/0.jpg')
    (root / link).symlink_to(target)
    with pytest.raises(SimimError, match=rf'root/{link} ') as caught:
        LabelledFolder(str(root))
    assert '\n' not in str(caught.value)


def test_links_back_are_listed_once(tmp_path: Path, lines: list[str]) -> None:
    touch(tmp_path, 'cat/0.jpg', 'dog/0.jpg')
    (tmp_path / 'cat/up').symlink_to('..')
    (tmp_path / 'cat/self').symlink_to('self')
    assert len(ImageFolder(str(tmp_path))) == 2
    assert 'left 1 links to folders that were listed already' in lines[0]
    assert 'cat/up' in lines[0]


def test_links_that_lead_nowhere_are_named(
    tmp_path: Path, lines: list[str]
) -> None:
    root = tmp_path / 'root'
    touch(root, 'cat/0.jpg', 'dog/0.jpg')
    (root / 'cat/more').symlink_to(tmp_path / 'disk')
    for kind in (ImageFolder, LabelledFolder):
        assert len(kind(str(root))) == 2
        assert lines.pop().endswith(
            f'; left 1 links that lead nowhere ({root}/cat/more).'
        )
    (root / 'eel').symlink_to(tmp_path / 'disk/eel')
    with pytest.raises(SimimError, match=r'root/eel .No such file'):
        LabelledFolder(str(root))


def test_a_list_without_a_lost_disk_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / 'root'
    touch(root, '0.jpg')
    (root / 'more').symlink_to(tmp_path / 'disk')
    past = time.time() - 60
    os.utime(root, (past, past))
    monkeypatch.setattr(listing, 'FEWEST', 1)
    with listing.keeping_lists(tmp_path / 'lists'):
        assert len(ImageFolder(str(root))) == 1
        touch(tmp_path, 'disk/1.jpg')
        assert len(ImageFolder(str(root))) == 2
