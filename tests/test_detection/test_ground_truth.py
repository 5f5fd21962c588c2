"""Metrics of COCO and LVIS take any file that a data set takes."""

import json

import pytest
import torch
from mmdet.registry import METRICS

import simim_plugin.detection  # noqa: F401  # registers the metrics
from simim_plugin.errors import SimimError

SIDE = 40
BOXES = [[2, 3, 10, 12], [20, 20, 15, 10]]  # one of each class
METRIC = dict(coco='CocoMetric', lvis='NumPy2LVISMetric')
SCORE = dict(coco='coco/{}_mAP', lvis='lvis/{}_AP')

pytestmark = pytest.mark.filterwarnings('ignore:.*copy keyword')


def corners(x, y, width, height) -> list:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def content(ids=(1, 2), count=1, **more) -> dict:
    """Return a file of images with both objects each."""
    annotations = []
    for k in range(count):
        for number, box, category in zip(ids, BOXES, (1, 2), strict=True):
            one = dict(bbox=box, area=box[2] * box[3], iscrowd=0)
            one.update(image_id=k, category_id=category)
            one.update(segmentation=[corners(*box)])
            given = number + 2 * k if isinstance(number, int) else number
            annotations.append(dict(one, id=given, **more))
    images = [dict(id=k, height=SIDE, width=SIDE) for k in range(count)]
    names = [
        dict(id=1, name='disc', frequency='f', image_count=9),
        dict(id=2, name='bar', frequency='f', image_count=9),
    ]
    return dict(images=images, annotations=annotations, categories=names)


def evaluate(tmp_path, kind, stored, found=None, task='bbox') -> float:
    """Return the AP of detections, by default of the true objects."""
    file = tmp_path / 'all.json'
    file.write_text(json.dumps(stored))
    metric = METRICS.build(
        dict(type=METRIC[kind], ann_file=str(file), metric=task)
    )
    metric.dataset_meta = dict(classes=('disc', 'bar'), labels_by_name=True)
    found = found or [((0, 0.9), (1, 0.8))] * len(stored['images'])
    for k, objects in enumerate(found):
        labels, scores = zip(*objects, strict=True)
        boxes = torch.tensor([BOXES[label] for label in labels]).float()
        masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.bool)
        for mask, (x, y, w, h) in zip(masks, boxes.long(), strict=True):
            mask[y : y + h, x : x + w] = True
        given = dict(
            bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            labels=torch.tensor(labels),
            scores=torch.tensor(scores),
            masks=masks,
        )
        sample = dict(img_id=k, ori_shape=(SIDE, SIDE), pred_instances=given)
        metric.process({}, [sample])
    return metric.evaluate(len(found))[SCORE[kind].format(task)]


@pytest.mark.parametrize('kind', METRIC)
@pytest.mark.parametrize('ids', [(1, 2), (0, 1), (-1, 0), ('a', 'b')])
def test_any_ids_of_annotations(ids, kind, tmp_path):
    assert evaluate(tmp_path, kind, content(ids)) == 1
    assert evaluate(tmp_path, kind, content(ids), task='segm') == 1


WITHOUT_MASK = {
    'missing': lambda one: one.pop('segmentation'),
    'empty': lambda one: one.update(segmentation=[]),
    'empty polygon': lambda one: one.update(segmentation=[[]]),
    'two points': lambda one: one.update(segmentation=[[1, 1, 5, 5]]),
    'none': lambda one: one.update(segmentation=None),
}


@pytest.mark.parametrize('kind', METRIC)
@pytest.mark.parametrize('fault', WITHOUT_MASK)
def test_annotations_without_a_whole_mask(fault, kind, tmp_path):
    """A crowd and an object of no area, which training leaves out."""
    stored = content(count=2)
    for k, change in enumerate((dict(iscrowd=1), dict(area=0))):
        one = dict(stored['annotations'][0], id=7 + k, image_id=1)
        one.update(change, bbox=[30, 30, 5, 5])
        WITHOUT_MASK[fault](one)
        stored['annotations'].append(one)
    # COCO counts what has no area as a miss, and crowds as neither.
    assert evaluate(tmp_path, kind, stored, task='segm') > 0.5


@pytest.mark.parametrize('task', ['bbox', 'segm'])
@pytest.mark.parametrize('kind', METRIC)
def test_ignored_objects_are_no_misses(kind, task, tmp_path):
    stored = content()
    one = dict(stored['annotations'][0], id=7, ignore=1, bbox=[30, 30, 5, 5])
    one['segmentation'] = [corners(30, 30, 5, 5)]
    stored['annotations'].append(one)
    assert evaluate(tmp_path, kind, stored, task=task) == 1


def test_images_of_a_file_without_negatives_are_exhaustive(tmp_path):
    """False detections of classes that an image lacks count, as in COCO."""
    stored = content(count=4)
    stored['annotations'] = [
        one
        for one in stored['annotations']
        if (one['category_id'] == 1) == (one['image_id'] == 0)
    ]
    found = [((0, 0.5 + 0.1 * k), (1, 0.9)) for k in range(4)]
    by_coco = evaluate(tmp_path, 'coco', stored, found)
    assert evaluate(tmp_path, 'lvis', stored, found) == pytest.approx(by_coco)
    assert by_coco < 1


def test_negatives_of_some_images_alone_are_refused(tmp_path):
    stored = content(count=2)
    stored['images'][0]['neg_category_ids'] = []
    with pytest.raises(SimimError, match='1 of 2 images without neg_cat'):
        evaluate(tmp_path, 'lvis', stored)


@pytest.mark.parametrize('kind', METRIC)
def test_images_that_are_not_tested_do_not_count(kind, tmp_path):
    """``indices`` tests the first images of a file."""
    found = [((0, 0.9), (1, 0.8))]
    assert evaluate(tmp_path, kind, content(count=3), found) == 1
    missed = [((0, 0.9), (1, 0.8)), ((0, 0.9),)]
    assert evaluate(tmp_path, kind, content(count=3), missed) < 1


def built(tmp_path, kind, stored):
    file = tmp_path / 'all.json'
    file.write_text(json.dumps(stored))
    metric = METRICS.build(dict(type=METRIC[kind], ann_file=str(file)))
    metric.dataset_meta = dict(classes=('disc', 'bar'), labels_by_name=True)
    return metric


def a_sample(number, path) -> dict:
    given = dict(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0), scores=torch.zeros(0)
    )
    return dict(
        img_id=number,
        img_path=path,
        ori_shape=(SIDE, SIDE),
        pred_instances=given,
    )


@pytest.mark.parametrize('kind', METRIC)
def test_annotations_of_other_images_are_refused(kind, tmp_path):
    """The ids of two parts of a set are often the same."""
    stored = content(count=2)
    for image in stored['images']:
        image['file_name'] = f'val/é{image["id"]}.jpg'
    metric = built(tmp_path, kind, stored)
    decomposed = 'data/val/e\u03010.jpg'
    metric.process({}, [a_sample(0, decomposed)])
    for number, path, words in (
        (1, 'data/test/é1.jpg', 'has val/é1.jpg with the id 1'),
        (0, 'data/interval/é0.jpg', 'has val/é0.jpg with the id 0'),
        (7, 'data/val/é7.jpg', 'has no image with the id 7'),
    ):
        with pytest.raises(SimimError, match=words) as caught:
            metric.process({}, [a_sample(number, path)])
        assert path in str(caught.value)
        assert '\n' not in str(caught.value)


def test_images_are_known_by_their_address(tmp_path):
    """LVIS's file has the address of COCO's image alone."""
    stored = content()
    address = 'http://images.cocodataset.org/val2017/0.jpg'
    stored['images'][0]['coco_url'] = address
    metric = built(tmp_path, 'lvis', stored)
    metric.process({}, [a_sample(0, 'data/lvis_v1/val2017/0.jpg')])
    with pytest.raises(SimimError, match='evaluation has http'):
        metric.process({}, [a_sample(0, 'data/lvis_v1/train2017/0.jpg')])


@pytest.mark.parametrize('kind', METRIC)
def test_images_without_an_address(kind, tmp_path):
    stored = content()
    stored['images'][0] |= dict(file_name='0.jpg', coco_url=None)
    metric = built(tmp_path, kind, stored)
    metric.process({}, [a_sample(0, 'data/0.jpg')])
    with pytest.raises(SimimError, match=r'has 0\.jpg with the id 0'):
        metric.process({}, [a_sample(0, 'data/1.jpg')])


def test_lvis_needs_a_file():
    with pytest.raises(SimimError, match='no ann_file'):
        METRICS.build(dict(type='NumPy2LVISMetric'))
