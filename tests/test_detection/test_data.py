"""Bad input is refused in one sentence before a run starts."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from simim_plugin import environment
from simim_plugin.demo.data import make_demo_data
from simim_plugin.detection import CheckedCocoDataset, CheckedLVISDataset
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import ClassCountHook

from . import DEMO, DEMO_LVIS

KINDS = {
    'instances_train.json': (CheckedCocoDataset, DEMO),
    'lvis_v1_train.json': (CheckedLVISDataset, DEMO_LVIS),
}


@pytest.fixture
def data(tmp_path):
    make_demo_data(tmp_path / 'demo', train=6, val=1, size=(64, 64))
    return tmp_path / 'demo'


@pytest.fixture(params=KINDS)
def case(request, data):
    """A function that builds a data set, and its annotation file."""
    kind, config = KINDS[request.param]
    settings = Config.fromfile(config).train_dataloader.dataset

    def build(**changes):
        options = dict(
            data_root=str(data),
            ann_file=f'annotations/{request.param}',
            data_prefix=dict(img=''),
            metainfo=settings.metainfo,
        )
        return kind(**{**options, **changes})

    return build, data / 'annotations' / request.param


def change(file, part, value):
    content = json.loads(file.read_text())
    content[part] = value
    file.write_text(json.dumps(content))


def refused(build, match, **changes):
    with pytest.raises(SimimError, match=match) as caught:
        build(**changes)
    assert '\n' not in str(caught.value)


def test_whole_data(case):
    build, file = case
    dataset = build()
    content = json.loads(file.read_text())
    assert len(dataset) == 6
    names = [c['name'] for c in content['categories']]
    assert list(dataset.metainfo['classes']) == names
    labels = [
        dataset.metainfo['classes'][instance['bbox_label']]
        for i in range(6)
        for instance in dataset.get_data_info(i)['instances']
    ]
    by_id = {c['id']: c['name'] for c in content['categories']}
    assert sorted(labels) == sorted(
        by_id[a['category_id']] for a in content['annotations']
    )


def test_evaluation_of_the_first_images(data):
    """With ann_file=None only the objects of these images count."""
    config = Config.fromfile(DEMO)
    dataset = DATASETS.build(
        dict(
            config.val_dataloader.dataset,
            data_root=str(data),
            ann_file='annotations/instances_train.json',
            indices=2,
        )
    )
    metric = METRICS.build(dict(config.val_evaluator, ann_file=None))
    metric.dataset_meta = dataset.metainfo
    for i in range(2):
        sample = dataset[i]['data_samples']
        found = sample.gt_instances
        sample.pred_instances = InstanceData(
            bboxes=found.bboxes.tensor
            / found.bboxes.tensor.new_tensor(sample.scale_factor).repeat(2),
            labels=found.labels,
            scores=torch.ones(len(found)),
            masks=torch.from_numpy(found.masks.to_ndarray()).bool(),
        )
        metric.process({}, [sample.to_dict()])
    scores = metric.evaluate(size=2)
    assert scores['coco/bbox_mAP'] == pytest.approx(1)
    assert scores['coco/segm_mAP'] > 0.9


def test_missing_annotation_file(case):
    build, file = case
    file.unlink()
    refused(build, rf'no annotation file .*{file.name}; set data_root')


def test_missing_images(case, data):
    build, _ = case
    images = sorted((data / 'train').rglob('*.jpg'))
    for image in images[1:5]:
        image.unlink()
    refused(build, r'Of the 6 images in .* 4 are missing \(.*, \.\.\.\)')
    shutil.rmtree(data / 'train')
    refused(build, r'6 are missing')
    images[0].parent.mkdir(parents=True)
    refused(build, r'6 are missing')


def test_first_three_missing_images_are_named(case, data):
    build, _ = case
    gone = sorted((data / 'train').rglob('*.jpg'))[:3]
    for image in gone:
        image.unlink()
    with pytest.raises(SimimError) as caught:
        build()
    assert '3 are missing' in str(caught.value)
    assert all(os.fspath(image) in str(caught.value) for image in gone)
    assert '...' not in str(caught.value)


def test_other_categories(case):
    build, _ = case
    classes = ('ball', 'box', 'cat', 'dog')
    refused(
        build,
        r'has 4 classes \(ball, box, cat, \.\.\.\), of which .* has (2|0): '
        'it lacks ',
        metainfo=dict(classes=classes),
    )


def test_no_objects(case):
    build, file = case
    change(file, 'annotations', [])
    refused(build, 'has 6 images and no object')
    change(file, 'images', [])
    refused(build, 'has 0 images and no object')


def test_test_set_without_annotations(data):
    """Accepted as COCO's image_info_test-dev2017.json, but not to train."""
    file = data / 'annotations' / 'instances_val.json'
    content = json.loads(file.read_text())
    del content['annotations']
    file.write_text(json.dumps(content))
    config = Config.fromfile(DEMO)
    given = dict(
        config.test_dataloader.dataset,
        data_root=str(data),
        ann_file=f'annotations/{file.name}',
    )
    dataset = DATASETS.build(given)
    assert len(dataset) == 1
    assert len(dataset[0]['data_samples'].gt_instances) == 0
    refused(DATASETS.build, 'no object', cfg=dict(given, test_mode=False))
    change(file, 'annotations', [])
    refused(DATASETS.build, 'no object', cfg=given)


def test_lvis_without_its_package(data, monkeypatch):
    """The error is ours, not MMDetection's."""
    monkeypatch.setitem(sys.modules, 'lvis', None)
    config = Config.fromfile(DEMO_LVIS)
    with pytest.raises(environment.MissingDependency) as caught:
        DATASETS.build(
            dict(config.train_dataloader.dataset, data_root=str(data))
        )
    assert str(caught.value).startswith('Cannot do LVIS evaluation: lvis ')
    assert 'git+' not in str(caught.value)


@pytest.mark.parametrize('part', ['bbox_head', 'mask_head'])
def test_heads_of_another_class_count(case, part):
    build, file = case
    dataset = build()
    count = len(dataset.metainfo['classes'])
    model = nn.Module()
    model.roi_head = nn.Module()
    for name in ('bbox_head', 'mask_head'):
        head = nn.Module()
        head.num_classes = count
        model.roi_head.add_module(name, head)
    loader = SimpleNamespace(dataset=dataset)
    runner = SimpleNamespace(
        model=model,
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        val_loop=object(),
    )
    hook = ClassCountHook(parts=('roi_head',))
    hook.before_train(runner)
    hook.before_test(runner)
    getattr(model.roi_head, part).num_classes = 80
    for check in (hook.before_train, hook.before_test):
        with pytest.raises(
            SimimError,
            match=f'roi_head.{part} has 80 classes and .*{file.name} has '
            f'{count};',
        ):
            check(runner)


def test_a_checkpoint_of_another_order(case):
    """Its head calls the objects by each other's names."""
    build, _ = case
    dataset = build()
    classes = [*dataset.metainfo['classes']]
    model = nn.ModuleDict(dict(roi_head=nn.Linear(1, 1)))
    runner = SimpleNamespace(
        model=model, test_dataloader=SimpleNamespace(dataset=dataset)
    )
    hook = ClassCountHook(parts=('roi_head',))
    for trained in (None, classes, ['cat', 'dog']):
        meta = dict(dataset_meta=dict(classes=trained))
        hook.after_load_checkpoint(runner, dict(meta=meta))
        hook.before_test(runner)
    meta = dict(dataset_meta=dict(classes=classes[::-1]))
    hook.after_load_checkpoint(runner, dict(meta=meta))
    with pytest.raises(SimimError, match='another order than those of the'):
        hook.before_test(runner)


def test_a_missing_library(monkeypatch):
    """The config raises the error of the dependency check."""
    needed = ('mmcv', 'absent_library')
    monkeypatch.setitem(environment.TASKS, 'detection', needed)
    package = 'simim_plugin.detection'
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(SimimError) as caught:
        Config.fromfile(DEMO)
    assert str(caught.value) == (
        'Cannot do detection: absent_library is not installed; fix it with '
        '`pip install absent_library`; see docs/troubles.md#wrong-stack.'
    )
