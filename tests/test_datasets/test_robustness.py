from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import default_collate
from mmpretrain.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from simim_plugin.datasets import robustness
from simim_plugin.datasets.robustness import (
    CORRUPTIONS,
    SEVERITIES,
    CorruptedFolder,
    ImageNetA,
    ImageNetC,
    ImageNetR,
    ImageNetSketch,
    imagenet_labels,
    read_wnids,
)
from simim_plugin.errors import SimimError

from .sentences import one_sentence

LISTS = ['imagenet_1k', 'imagenet_a', 'imagenet_r']


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def corrupted(root: Path, *names: str) -> Path:
    """Make the 75 folders with images of these names in each."""
    for corruption in CORRUPTIONS:
        for severity in SEVERITIES:
            touch(root / corruption / str(severity), *names)
    return root


# The lists


@pytest.mark.parametrize('name', LISTS)
def test_lists_are_sorted_and_of_imagenet(name):
    wnids = read_wnids(name)
    assert len(wnids) == (1000 if name == 'imagenet_1k' else 200)
    assert wnids == sorted(set(wnids))
    assert set(wnids) <= imagenet_labels().keys()


@pytest.mark.parametrize('name', LISTS)
def test_lists_equal_timms(name):
    timm = pytest.importorskip('timm')
    folder = Path(timm.__file__).parent / 'data' / '_info'
    file = name.replace('_1k', '') + '_synsets.txt'
    assert sorted((folder / file).read_text().split()) == read_wnids(name)


@pytest.mark.shared
@pytest.mark.parametrize('name', ['imagenet_a', 'imagenet_r'])
def test_labels_equal_the_published_indices(shared, name):
    file = shared / 'data' / 'robustness' / f'{name}_indices.txt'
    labels = imagenet_labels()
    assert [labels[wnid] for wnid in read_wnids(name)] == [
        int(line) for line in file.read_text().split()
    ]


# ImageNet-A, -R and -Sketch


@pytest.mark.parametrize(
    'kind, name', [(ImageNetA, 'imagenet_a'), (ImageNetR, 'imagenet_r')]
)
def test_200_folders_have_labels_among_the_1000(tmp_path, kind, name):
    wnids = read_wnids(name)
    root = touch(tmp_path, *(f'{w}/x.jpg' for w in wnids), 'README.txt')
    touch(root, f'{wnids[7]}/y.JPEG')
    dataset = DATASETS.build(dict(type=kind.__name__, data_root=str(root)))
    labels = imagenet_labels()
    assert len(dataset) == 201
    for info in dataset:
        folder = Path(info['img_path']).parent.name
        assert info['gt_label'] == labels[folder]
    assert dataset.metainfo['subset'] == tuple(labels[w] for w in wnids)
    assert len(dataset.metainfo['classes']) == 1000
    # n01498041, the sixth class of ImageNet-1k counted from 0, is a stingray.
    assert dataset.metainfo['classes'][6] == 'stingray'


def test_sketch_has_all_classes(tmp_path):
    wnids = read_wnids('imagenet_1k')
    root = touch(tmp_path, *(f'{wnid}/sketch_0.JPEG' for wnid in wnids))
    dataset = ImageNetSketch(str(root))
    assert [info['gt_label'] for info in dataset] == list(range(1000))
    assert 'subset' not in dataset.metainfo


def test_missing_data_set_names_its_layout(tmp_path):
    for kind in (ImageNetA, ImageNetSketch):
        with pytest.raises(SimimError) as error:
            kind(str(tmp_path / 'nowhere'))
        assert one_sentence(error.value)
        assert kind.__name__ in str(error.value)
        assert 'class folders (n01' in str(error.value)


def test_missing_class_folders_are_counted_and_named(tmp_path):
    wnids = read_wnids('imagenet_r')
    touch(tmp_path, *(f'{wnid}/x.jpg' for wnid in wnids))
    for wnid in wnids[1:6]:
        shutil.rmtree(tmp_path / wnid)
    with pytest.raises(SimimError) as error:
        ImageNetR(str(tmp_path))
    named = f'5 class folders ({", ".join(wnids[1:4])}, ...) of 200'
    assert named in str(error.value) and one_sentence(error.value)


def test_another_data_set_is_refused(tmp_path):
    wnids = read_wnids('imagenet_a')
    touch(tmp_path, *(f'{wnid}/x.jpg' for wnid in wnids), 'n00000000/x.jpg')
    with pytest.raises(SimimError, match='none of its 200 classes') as error:
        ImageNetA(str(tmp_path))
    assert '1 folder (n00000000)' in str(error.value)
    assert one_sentence(error.value)


def test_class_without_an_image_is_named(tmp_path):
    wnids = read_wnids('imagenet_a')
    touch(tmp_path, *(f'{wnid}/x.jpg' for wnid in wnids))
    (tmp_path / wnids[3] / 'x.jpg').rename(tmp_path / wnids[3] / 'x.txt')
    with pytest.raises(SimimError, match=wnids[3]) as error:
        ImageNetA(str(tmp_path))
    assert one_sentence(error.value)


# ImageNet-C and folders corrupted like it


def test_corrupted_folder_labels_each_image(tmp_path):
    root = corrupted(tmp_path, 'bee/0.jpg', 'ant/0.jpg', 'ant/1.jpg')
    dataset = CorruptedFolder(str(root))
    assert dataset.metainfo['classes'] == ('ant', 'bee')
    assert len(dataset) == 75 * 3
    for info in dataset:
        *_, corruption, severity, name, _ = Path(info['img_path']).parts
        assert info['corruption'] == corruption
        assert info['severity'] == int(severity)
        assert info['gt_label'] == ['ant', 'bee'].index(name)
    cells = {(info['corruption'], info['severity']) for info in dataset}
    assert len(cells) == 75


def test_imagenet_c_has_the_labels_of_imagenet(tmp_path, monkeypatch):
    labels = {'n02': 1, 'n03': 2}
    monkeypatch.setattr(robustness, 'imagenet_labels', lambda: labels)
    root = corrupted(tmp_path, 'n02/a.JPEG', 'n03/a.JPEG')
    dataset = ImageNetC(str(root))
    assert {info['gt_label'] for info in dataset} == {1, 2}
    assert len(dataset.metainfo['classes']) == 1000


@pytest.mark.parametrize(
    'gone, message',
    [
        ('fog', '1 folder (fog)'),
        ('fog/3', '1 folder (fog/3)'),
        ('fog/3/ant', 'lacks 1 class folder (ant) of 2'),
        ('fog/3/ant/0.jpg', '1 class folder (ant) without an image'),
        ('', 'There is no CorruptedFolder'),
    ],
)
def test_names_the_part_that_is_missing(tmp_path, gone, message):
    root = corrupted(tmp_path / 'c', 'ant/0.jpg', 'bee/0.jpg')
    path = root / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(SimimError) as error:
        CorruptedFolder(str(root))
    assert message in str(error.value) and one_sentence(error.value)


def test_pipeline_packs_corruption_and_severity(tmp_path):
    root = corrupted(tmp_path, 'ant/0.png', 'bee/0.png')
    image = Image.fromarray(np.full((32, 32, 3), 9, np.uint8))
    for path in root.rglob('*.png'):
        image.save(path)
    pipeline = [
        dict(type='LoadRGBImage'),
        dict(type='PackInputs', meta_keys=('corruption', 'severity')),
    ]
    dataset = CorruptedFolder(str(root), pipeline=pipeline)
    loader = DataLoader(dataset, 4, collate_fn=default_collate)
    samples = [s for batch in loader for s in batch['data_samples']]
    assert [(s.corruption, s.severity) for s in samples] == [
        (corruption, severity)
        for corruption in CORRUPTIONS
        for severity in SEVERITIES
        for _ in range(2)
    ]
    assert samples[0].to_dict()['severity'] == 1
