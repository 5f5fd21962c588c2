"""Sets of images are distinguished by their lists, not by their pictures."""

import json
import pickle
import shutil

import numpy as np
import pytest
from mmdet.registry import DATASETS as DETECTION
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmpretrain.datasets import CIFAR10
from torch.utils.data import Subset

import simim_plugin.detection  # noqa: F401
from simim_plugin.config_files import config_path
from simim_plugin.datasets import LabelledFolder, LocalCIFAR10
from simim_plugin.datasets.fingerprint import fingerprint_of
from simim_plugin.demo.data import make_demo_data
from simim_plugin.segmentation.data import CheckedSegDataset


@pytest.fixture
def demo(tmp_path):
    make_demo_data(tmp_path / 'demo', train=6, val=2, size=(32, 32))
    return tmp_path / 'demo'


def labelled(root, **options) -> LabelledFolder:
    return LabelledFolder(data_root=str(root), pipeline=[], **options)


def fill(root, names) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b'no picture: nobody reads it')


def test_labelled_folders(tmp_path):
    fill(tmp_path / 'one', ['a/1.png', 'a/2.png', 'b/3.png'])
    one = fingerprint_of(labelled(tmp_path / 'one'))
    shutil.copytree(tmp_path / 'one', tmp_path / 'moved')
    assert fingerprint_of(labelled(f'{tmp_path}/moved/')) == one
    found = {one}
    for names in (
        ['a/1.png', 'a/2.png', 'b/4.png'],  # another name
        ['a/1.png', 'b/2.png', 'b/3.png'],  # another class
        ['a/1.png', 'a/2.png', 'c/3.png'],  # another name of a class
    ):
        root = tmp_path / f'other{len(found)}'
        fill(root, names)
        found.add(fingerprint_of(labelled(root)))
    assert len(found) == 4


def test_lists_and_parts(tmp_path):
    fill(tmp_path / 'one', ['a/a_1.png', 'a/a_2.png', 'b/b_3.png'])
    lists = dict(
        both='a_1.png\nb_3.png\n', swap='b_3.png\na_1.png\n', other='a_2.png\n'
    )
    found = []
    for name, lines in lists.items():
        (tmp_path / name).write_text(lines)
        data = labelled(tmp_path / 'one', list_file=str(tmp_path / name))
        found.append(fingerprint_of(data))
    whole = labelled(tmp_path / 'one')
    parts = [
        labelled(tmp_path / 'one', indices=[0, 1]),
        labelled(tmp_path / 'one', indices=[0, 2]),
        Subset(whole, [0, 1]),
        Subset(whole, [1, 0]),
        ConcatDataset([whole, whole]),
        whole,
    ]
    found += map(fingerprint_of, parts)
    # The list of both lists what the indices choose.
    assert len({*found}) == len(found) - 1
    assert found[0] == found[4]
    assert fingerprint_of(RepeatDataset(whole, 3)) == found[-1]


@pytest.mark.parametrize(
    ('config', 'file'),
    [
        ('siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py', 'instances'),
        ('siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo-lvis.py', 'lvis_v1'),
    ],
)
def test_annotations(demo, tmp_path, config, file):
    settings = Config.fromfile(config_path(config)).train_dataloader.dataset

    def of(root):
        options = dict(settings, data_root=str(root), pipeline=[])
        return fingerprint_of(DETECTION.build(options))

    one = of(demo)
    shutil.copytree(demo, tmp_path / 'moved')
    assert of(tmp_path / 'moved') == one
    annotations = tmp_path / f'moved/annotations/{file}_train.json'
    whole = annotations.read_text()
    for key, value in (('bbox', [1, 1, 3, 3]), ('category_id', 5)):
        content = json.loads(whole)
        annotation = content['annotations'][0]
        assert annotation[key] != value
        annotation[key] = value
        annotations.write_text(json.dumps(content))
        assert of(tmp_path / 'moved') != one
    annotations.write_text(json.dumps(json.loads(whole), indent=1))
    assert of(tmp_path / 'moved') == one


def test_pairs_of_images_and_label_maps(demo, tmp_path):
    def of(root, **options):
        data = CheckedSegDataset(
            data_root=str(root),
            data_prefix=dict(
                img_path='train', seg_map_path='label_maps/train'
            ),
            reduce_zero_label=True,
            pipeline=[],
            **options,
        )
        return fingerprint_of(data), [
            data.get_data_info(i)['img_path'] for i in range(len(data))
        ]

    one, images = of(demo)
    shutil.copytree(demo, tmp_path / 'moved')
    assert of(tmp_path / 'moved')[0] == one
    names = [path.removeprefix(f'{demo}/train/') for path in images]
    found = {one}
    for kept in (names[1:], names[::-1]):
        (tmp_path / 'list').write_text('\n'.join(kept))
        found.add(of(demo, ann_file=str(tmp_path / 'list'))[0])
    assert len(found) == 3


def test_cifar10_and_what_lists_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    found = set()
    for seed in (0, 0, 1):
        batches = tmp_path / 'cifar-10-batches-py'
        batches.mkdir(exist_ok=True)
        random = np.random.default_rng(seed)
        for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
            rows = random.integers(0, 256, (2, 3072), np.uint8)
            content = pickle.dumps(dict(data=rows, labels=[1, 5]))
            (batches / name).write_bytes(content)
        data = LocalCIFAR10(data_root=str(tmp_path), pipeline=[])
        found.add(fingerprint_of(data))
    assert len(found) == 2
    assert fingerprint_of([1, 2, 3]) == ''
