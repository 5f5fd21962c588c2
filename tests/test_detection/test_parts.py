"""Float32 heads, the federated loss, and LVIS's sampling and scores."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    TRANSFORMS,
)

from simim_plugin import detection
from simim_plugin.detection import (
    FederatedLoss,
    Float32RoIExtractor,
    NumPy2LVISMetric,
    RepeatFactorSampler,
    schedule,
)
from simim_plugin.detection.lvis_metric import float_of_numpy
from simim_plugin.detection.schedule import COCO, LVIS
from simim_plugin.errors import SimimError


def test_regions_are_pooled_in_float32():
    extractor = Float32RoIExtractor(
        roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
        out_channels=3,
        featmap_strides=[4, 8],
    )
    levels = [torch.randn(2, 3, 256, 256), torch.randn(2, 3, 128, 128)]
    levels = [level.bfloat16() for level in levels]
    rois = torch.tensor(
        [[0, 1001.25, 900.5, 1015.75, 913.0], [1, 300.3, 200.2, 900.9, 800.8]]
    )
    expected = extractor([level.float() for level in levels], rois)
    with torch.autocast('cpu', torch.bfloat16):
        pooled = extractor(levels, rois)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, expected)
    rounded = extractor(levels, rois.bfloat16())
    assert not torch.allclose(rounded, expected, atol=1e-2)


def weighted_loss(weights, **options) -> FederatedLoss:
    loss = FederatedLoss(len(weights), **options)
    loss.class_weights.copy_(torch.tensor(weights))
    return loss


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(0, 99),
)
def test_federated_loss_is_a_direct_sum(labels, num_sampled, seed):
    """It sums over all present classes and enough others."""
    loss = weighted_loss([1.0, 2, 3, 4, 5, 0], num_sampled=num_sampled)
    torch.manual_seed(seed)
    logits = torch.randn(len(labels), 6)
    state = torch.get_rng_state()
    chosen = loss.sample(torch.tensor(labels)).tolist()
    present = set(labels)
    for label in present - {6}:
        assert chosen[label]
    drawn = sum(chosen) + (6 in present)  # the background counts
    available = 6 - len(present - {6}) - (5 not in present)  # weight 0
    assert drawn == max(
        len(present), min(num_sampled, len(present) + available)
    )
    assert chosen[5] == (5 in present)
    total = 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        for k, logit in enumerate(row):
            p = 1 / (1 + math.exp(-logit))
            if chosen[k]:
                total -= math.log(p if label == k else 1 - p)
    torch.set_rng_state(state)
    value = loss(logits, torch.tensor(labels), avg_factor=4.0)
    assert value.item() == pytest.approx(total / 4, rel=1e-4)


def test_one_draw_is_proportional_to_the_weights():
    """The draw follows image counts to the power of 0.5."""
    counts = torch.tensor([1.0, 4, 25, 100])
    loss = weighted_loss((counts**0.5).tolist(), num_sampled=2)
    torch.manual_seed(0)
    labels = torch.tensor([4, 4])  # background only
    hits = sum(loss.sample(labels).float() for _ in range(4000))
    expected = counts**0.5 / (counts**0.5).sum() * 4000
    assert hits.sum() == 4000
    assert ((hits - expected).abs() < 4 * expected.sqrt()).all()


def test_several_draws_are_without_replacement():
    """Each draw is proportional to the remaining weights."""
    weights = [1.0, 2, 4, 8]
    loss = weighted_loss(weights, num_sampled=3)  # two beside background
    torch.manual_seed(0)
    hits = sum(loss.sample(torch.tensor([4])).float() for _ in range(4000))
    total = sum(weights)
    expected = torch.tensor(
        [
            w / total
            + sum(
                o / total * w / (total - o)
                for j, o in enumerate(weights)
                if j != i
            )
            for i, w in enumerate(weights)
        ]
    )
    spread = (4000 * expected * (1 - expected)).sqrt()
    assert ((hits - 4000 * expected).abs() < 4 * spread).all()


def lvis_file(path, **changes) -> str:
    categories = [
        dict(id=9, name='late', image_count=100, frequency='f'),
        dict(id=2, name='early', image_count=4, frequency='r'),
    ]
    for category in categories:
        category.update(changes)
    path.write_text(json.dumps(dict(categories=categories)))
    return str(path)


def test_weights_come_from_the_annotation_file(tmp_path):
    file = lvis_file(tmp_path / 'lvis.json')
    loss = FederatedLoss(2, ann_file=file)
    assert loss.class_weights.tolist() == [1, 1]  # inference needs no file
    loss.init_weights()
    assert loss.class_weights.tolist() == [2, 10]  # by id
    again = FederatedLoss(2, ann_file='nowhere.json')
    again.load_state_dict(loss.state_dict())
    assert again.class_weights.tolist() == [2, 10]


def test_files_that_do_not_count_images(tmp_path):
    with pytest.raises(SimimError, match=r'no annotation file .*gone\.json'):
        FederatedLoss(2, ann_file=str(tmp_path / 'gone.json')).init_weights()
    file = lvis_file(tmp_path / 'lvis.json')
    with pytest.raises(SimimError, match=r'has 2 categories and the .* 80'):
        FederatedLoss(80, ann_file=file).init_weights()
    content = json.loads((tmp_path / 'lvis.json').read_text())
    del content['categories'][1]['image_count']
    other = tmp_path / 'uncounted.json'
    other.write_text(json.dumps(content))
    with pytest.raises(SimimError, match='without image_count'):
        FederatedLoss(2, ann_file=str(other)).init_weights()


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{', 'no JSON'),
        ('[]', 'not in the format of COCO'),
        ('{"images": []}', 'not in the format of COCO'),
        ('{"categories": {}}', 'categories is no list'),
        ('{"categories": [1, 2]}', 'categories is no list'),
        (dict(image_count='4'), 'image_count is not a whole number from 0'),
        (dict(image_count=-1), 'image_count is not a whole number from 0'),
        (dict(image_count=1.5), 'image_count is not a whole number from 0'),
        (dict(image_count=True), 'image_count is not a whole number from 0'),
        (
            dict(image_count=10**400),
            'image_count is not a whole number from 0',
        ),
        (dict(image_count=None), 'image_count is not a whole number from 0'),
        (dict(image_count=0), 'counts no image of any category'),
        (dict(id=3), 'several categories with the id 3'),
        (dict(id=[3]), 'id is not a number'),
        (dict(name=None), 'name is not a text'),
    ],
    ids=str,
)
def test_files_whose_counts_are_broken(tmp_path, text, words):
    file = tmp_path / 'lvis.json'
    if isinstance(text, str):
        file.write_text(text)
    else:
        lvis_file(file, **text)
    with pytest.raises(SimimError, match=words) as error:
        FederatedLoss(2, ann_file=str(file)).init_weights()
    assert str(file) in str(error.value)
    assert '\n' not in str(error.value)


def test_ids_of_two_kinds_have_no_order(tmp_path):
    file = tmp_path / 'lvis.json'
    lvis_file(file)
    content = json.loads(file.read_text())
    content['categories'][0]['id'] = 'nine'
    file.write_text(json.dumps(content))
    with pytest.raises(SimimError, match='ids that are numbers and texts'):
        FederatedLoss(2, ann_file=str(file)).init_weights()


@pytest.mark.parametrize(
    'kind', ['Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead', 'BBoxHead']
)
def test_loss_fits_any_box_head(kind):
    head = MODELS.build(
        dict(
            type=kind,
            in_channels=8,
            roi_feat_size=7,
            num_classes=5,
            loss_cls=dict(type='FederatedLoss', num_classes=5),
            **(
                dict(with_avg_pool=True)
                if kind == 'BBoxHead'
                else dict(fc_out_channels=8)
            ),
        )
    )
    scores, boxes = head(torch.randn(6, 8, 7, 7))
    assert scores.shape == (6, 5)  # no background
    labels = torch.tensor([0, 4, 2, 5, 5, 5])
    losses = head.loss(
        *(scores, boxes, torch.zeros(6, 5), labels, torch.ones(6)),
        *(torch.zeros(6, 4), torch.ones(6, 4)),
    )
    expected = F.binary_cross_entropy_with_logits(
        scores, F.one_hot(labels, 6)[:, :5].float(), reduction='sum'
    )
    torch.testing.assert_close(losses['loss_cls'], expected / 6)
    found = (scores[:3].argmax(1) == labels[:3]).float().mean() * 100
    torch.testing.assert_close(losses['acc_classes'], found[None])
    activated = head.loss_cls.get_activation(scores)
    assert activated.shape == (6, 6)
    assert torch.equal(activated[:, :5], scores.sigmoid())
    with pytest.raises(SimimError, match='5 classes and its FederatedLoss 3'):
        MODELS.build(
            dict(
                type=kind,
                num_classes=5,
                loss_cls=dict(type='FederatedLoss', num_classes=3),
            )
        )


class Labelled:
    """A data set of images with the given categories."""

    def __init__(self, categories):
        self.categories = categories

    def __len__(self):
        return len(self.categories)

    def get_cat_ids(self, index):
        return self.categories[index]


def test_rare_categories_are_repeated():
    """By the maximum of max(1, sqrt(t / f)) over categories, on average."""
    dataset = Labelled([[0]] * 9 + [[0, 0, 1]] + [[]] * 10)
    sampler = RepeatFactorSampler(dataset, threshold=0.5, seed=3)
    factor = math.sqrt(0.5 / (1 / 20))  # category 1 is in one of 20 images
    expected = torch.ones(20)
    expected[9] = factor
    torch.testing.assert_close(sampler.repeats, expected)
    indices = iter(sampler)
    drawn = [next(indices) for _ in range(40_000)]
    counts = np.bincount(drawn, minlength=20)
    assert counts[9] / counts[0] == pytest.approx(factor, rel=0.01)
    assert counts[0] == pytest.approx(40_000 / (19 + factor), rel=0.01)
    again = iter(RepeatFactorSampler(dataset, threshold=0.5, seed=3))
    assert [next(again) for _ in range(99)] == drawn[:99]


def test_lvis_scores_under_numpy_2(tmp_path):
    """A perfect detector of rare and frequent objects, without common ones."""
    masks = [
        [0.0, 0, 20, 0, 20, 20, 0, 20],
        [40.0, 40, 80, 40, 80, 80, 40, 80],
    ]
    categories = [
        dict(id=1, name='ring', image_count=1, instance_count=1),
        dict(id=2, name='disc', image_count=9, instance_count=9),
    ]
    categories[0]['frequency'] = 'r'  # others are frequent
    annotations = [
        dict(
            id=i + 1,
            image_id=7,
            category_id=i + 1,
            bbox=[mask[0], mask[1], mask[2] - mask[0], mask[5] - mask[1]],
            area=(mask[2] - mask[0]) * (mask[5] - mask[1]),
            segmentation=[mask],
        )
        for i, mask in enumerate(masks)
    ]
    images = [
        dict(
            id=7,
            height=100,
            width=100,
            neg_category_ids=[],
            not_exhaustive_category_ids=[],
        )
    ]
    file = tmp_path / 'lvis.json'
    file.write_text(
        json.dumps(
            dict(images=images, annotations=annotations, categories=categories)
        ),
        encoding='utf-8-sig',
    )
    metric = NumPy2LVISMetric(ann_file=str(file), metric='bbox')
    metric.dataset_meta = dict(classes=['ring', 'disc'])
    found = dict(
        bboxes=torch.tensor([[0.0, 0, 20, 20], [40, 40, 80, 80]]),
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 1]),
    )
    sample = dict(img_id=7, ori_shape=(100, 100), pred_instances=found)
    metric.process({}, [sample])
    scores = metric.evaluate(size=1)
    assert scores['lvis/bbox_AP'] == 1
    assert scores['lvis/bbox_APr'] == 1
    assert scores['lvis/bbox_APf'] == 1
    assert scores['lvis/bbox_APc'] == -1
    assert 'float' not in vars(np)


def test_numpy_is_restored():
    with pytest.raises(ZeroDivisionError), float_of_numpy():
        assert np.zeros(2).astype(np.float).dtype == np.float64
        raise ZeroDivisionError
    assert 'float' not in vars(np)


def test_schedules_at_the_batch_of_the_recipe():
    """Detectron2's iterations, and as many images at another batch."""
    assert schedule(100, COCO, 64) == dict(
        max_iters=184375, milestones=[163889, 177546]
    )
    assert schedule(100, LVIS, 64) == dict(
        max_iters=156250, milestones=[138889, 150463]
    )
    assert schedule(25, COCO, 64)['max_iters'] == 46094
    assert schedule(75, COCO, 64) == dict(
        max_iters=138281, milestones=[122916, 133159]
    )
    assert schedule(100, COCO, 16)['max_iters'] == 4 * 184375


def test_registered_names_are_unique():
    """No package or project of OpenMMLab registers the same names."""
    found = {
        name: registry.get(name).__module__
        for registry in (
            *(MODELS, DATASETS, DATA_SAMPLERS),
            *(HOOKS, METRICS, TRANSFORMS),
        )
        for name in detection.__all__
        if registry.get(name) is not None
    }
    # NamedCocoMetric takes the place of CocoMetric.
    others = {'schedule', 'NamedCocoMetric'}
    assert found.keys() == set(detection.__all__) - others
    assert all(m.startswith('simim_plugin.') for m in found.values())
