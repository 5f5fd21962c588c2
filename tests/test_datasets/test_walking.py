"""All data sets find the same images below a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from simim_plugin.commands.visualize import find_images
from simim_plugin.datasets import ImageFolder, LabelledFolder
from simim_plugin.datasets.robustness import labelled_images
from simim_plugin.datasets.walking import EXTENSIONS, class_labels
from simim_plugin.errors import SimimError


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
