from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import RUNNERS, init_default_scope
from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
from mmpretrain.registry import DATASETS, METRICS, MODELS
from mmpretrain.structures import DataSample

from simim_plugin.datasets.corruptions import make_corruptions
from simim_plugin.datasets.robustness import (
    CLASS_LISTS,
    CORRUPTIONS,
    SEVERITIES,
    imagenet_labels,
    read_wnids,
)
from simim_plugin.demo.data import make_demo_data
from simim_plugin.errors import SimimError
from simim_plugin.evaluation.metrics import (
    mean_corruption_error,
    robustness_average,
)

from ..test_datasets.sentences import one_sentence

IMAGENET = dict(classes=IMAGENET_CATEGORIES)
ALEXNET = json.loads(
    (CLASS_LISTS / 'imagenet_c_alexnet_errors.json').read_text()
)
CELLS = [(c, s) for c in CORRUPTIONS for s in SEVERITIES]
PERCENT = st.floats(0, 100)


def judge(metric: dict, meta: dict, samples: list[DataSample]) -> dict:
    """The metrics of all samples, in batches of 7."""
    evaluator = Evaluator(METRICS.build(metric))
    evaluator.dataset_meta = meta
    for start in range(0, len(samples), 7):
        evaluator.process(samples[start : start + 7])
    return evaluator.evaluate(len(samples))


def sample(label: int, scores: torch.Tensor, **meta: object) -> DataSample:
    data = DataSample(metainfo=meta).set_gt_label(label)
    return data.set_pred_score(scores)


def one_hot(index: int, classes: int) -> torch.Tensor:
    return F.one_hot(torch.tensor(index), classes).float()


# 200 and 1000 classes


def test_both_rules_by_hand():
    """The data set has classes 1 and 4 of five."""
    meta = dict(classes=tuple('abcde'), subset=(1, 4))
    rows = [
        # label, scores  # prediction among 1 and 4, among all
        (1, [0.1, 0.5, 0.1, 0.1, 0.2]),  # 1 right, 1 right
        (1, [0.6, 0.2, 0.1, 0.0, 0.1]),  # 1 right, 0 wrong
        (4, [0.1, 0.3, 0.4, 0.0, 0.2]),  # 1 wrong, 2 wrong
        (4, [0.0, 0.1, 0.0, 0.7, 0.2]),  # 4 right, 3 wrong
        (4, [0.0, 0.6, 0.1, 0.1, 0.2]),  # 1 wrong, 1 wrong
    ]
    samples = [sample(label, torch.tensor(row)) for label, row in rows]
    found = judge(dict(type='SubsetAccuracy', prefix='a'), meta, samples)
    assert found == {
        'a/top1_2way': pytest.approx(60),
        'a/top1_5way': pytest.approx(20),
    }


@pytest.mark.parametrize('name', ['imagenet_a', 'imagenet_r'])
def test_perfect_constant_and_distracted_classifier(name):
    labels = imagenet_labels()
    subset = tuple(labels[wnid] for wnid in read_wnids(name))
    meta = dict(IMAGENET, subset=subset)
    outside = next(k for k in range(1000) if k not in subset)

    def accuracy(scores):
        samples = [sample(label, scores(label)) for label in subset]
        found = judge(dict(type='SubsetAccuracy'), meta, samples)
        assert found.keys() == {
            'accuracy/top1_200way',
            'accuracy/top1_1000way',
        }
        return list(found.values())

    assert accuracy(lambda label: one_hot(label, 1000)) == [100, 100]
    assert accuracy(lambda label: one_hot(subset[9], 1000)) == [0.5, 0.5]
    # The top class is not in the data set, the second is right.
    assert accuracy(
        lambda label: one_hot(label, 1000) + 2 * one_hot(outside, 1000)
    ) == [100, 0]


def test_subset_accuracy_needs_a_subset():
    with pytest.raises(SimimError, match="type='Accuracy'") as error:
        judge(
            dict(type='SubsetAccuracy'),
            IMAGENET,
            [sample(0, torch.ones(1000))],
        )
    assert one_sentence(error.value)


# ImageNet-Sketch


def test_sketch_by_hand():
    """Evaluate six images of 1000 classes with the config's metric."""
    rows = [
        # label, classes by descending score
        (3, [3, 7, 8, 9, 10, 11]),  # first
        (3, [7, 3, 8, 9, 10, 11]),  # second
        (999, [0, 1, 2, 3, 999, 5]),  # fifth
        (0, [1, 2, 3, 4, 5, 0]),  # sixth
        (500, [500, 1, 2, 3, 4, 5]),  # first
        (7, [8, 9, 10, 11, 12, 13]),  # not among the six
    ]
    samples = []
    for label, order in rows:
        scores = torch.zeros(1000)
        scores[order] = torch.arange(6, 0, -1) / 21
        samples.append(sample(label, scores))
    config = read('robustness', 'base-p16_in1k-sketch')
    found = judge(config.test_evaluator, IMAGENET, samples)
    assert found == {
        'imagenet-sketch/top1': pytest.approx(100 * 2 / 6),
        'imagenet-sketch/top5': pytest.approx(100 * 4 / 6),
    }


# ImageNet-C


def test_corruption_accuracy_by_hand():
    """Two images of two classes per corruption and severity: all wrong for
    blurs of severity 5, half for fog of severity 2 and 3, right elsewhere."""
    samples = []
    for corruption, severity in CELLS:
        for label in (0, 1):
            missed = corruption.endswith('blur') and severity == 5
            missed |= corruption == 'fog' and severity in (2, 3) and label
            samples.append(
                sample(
                    label,
                    one_hot(1 - label if missed else label, 2),
                    corruption=corruption,
                    severity=severity,
                )
            )
    meta = dict(classes=('ant', 'bee'))
    found = judge(dict(type='CorruptionAccuracy'), meta, samples)
    expected = dict.fromkeys(CORRUPTIONS, 100)
    blurs = [c for c in CORRUPTIONS if c.endswith('blur')]
    assert len(blurs) == 4
    expected |= dict.fromkeys(blurs, 80) | dict(fog=80)
    assert found == pytest.approx(
        {f'corruption/{name}': value for name, value in expected.items()}
        | {'corruption/mean_accuracy': (10 * 100 + 5 * 80) / 15}
    )


def test_severities_have_equal_weight():
    """The published rule averages the error rates of the severities."""
    samples = [
        sample(
            0, one_hot(int(severity == 1), 2), corruption=c, severity=severity
        )
        for c, severity in CELLS
        for _ in range(3 if severity == 1 else 1)
    ]
    meta = dict(classes=('ant', 'bee'))
    found = judge(dict(type='CorruptionAccuracy'), meta, samples)
    assert found['corruption/snow'] == pytest.approx(80)


def classified(predict) -> dict:
    """Evaluate four images per corruption and severity."""
    samples = [
        sample(label, one_hot(predict(label), 1000), corruption=c, severity=s)
        for c, s in CELLS
        for label in (0, 300, 600, 999)
    ]
    return judge(
        dict(type='CorruptionError', prefix='imagenet-c'), IMAGENET, samples
    )


def test_perfect_classifier_has_no_error():
    found = classified(lambda label: label)
    assert found['imagenet-c/mCE'] == 0
    assert found['imagenet-c/100-mCE'] == 100
    assert found['imagenet-c/mean_accuracy'] == 100


def test_constant_classifier_by_hand():
    """One image of four is right: 75 % error on every corruption."""
    found = classified(lambda label: 300)
    mce = sum(100 * 75 / error for error in ALEXNET.values()) / 15
    assert found['imagenet-c/mCE'] == pytest.approx(mce)
    assert found['imagenet-c/100-mCE'] == pytest.approx(100 - mce)
    assert found['imagenet-c/mean_accuracy'] == pytest.approx(25)
    assert set(found) == {
        f'imagenet-c/{name}'
        for name in (*CORRUPTIONS, 'mean_accuracy', 'mCE', '100-mCE')
    }


@given(st.tuples(*[PERCENT] * 15), st.floats(0, 1))
def test_mce_is_100_for_alexnet_and_linear_in_the_error(errors, factor):
    def mce(values):
        return mean_corruption_error(
            {c: 100 - e for c, e in zip(CORRUPTIONS, values, strict=True)}
        )

    assert mce(ALEXNET[c] for c in CORRUPTIONS) == pytest.approx(100)
    assert mce(factor * e for e in errors) == pytest.approx(
        factor * mce(errors), abs=1e-6
    )


@pytest.mark.shared
def test_alexnet_errors_are_the_published_ones(shared):
    """Errors per severity are compared where they are known."""
    file = shared / 'data' / 'robustness' / 'imagenet_c_alexnet_errors.json'
    source = json.loads(file.read_text())
    assert list(ALEXNET) == list(CORRUPTIONS)
    for name, error in ALEXNET.items():
        assert error == pytest.approx(100 * source['alexnet_error'][name])
        rates = source['alexnet_error_per_severity'].get(name)
        if rates:
            assert error == pytest.approx(20 * sum(rates), abs=1e-3)


def test_mce_needs_all_corruptions():
    accuracy = dict.fromkeys(CORRUPTIONS, 50.0)
    extra = dict(accuracy, spatter=0.0)
    assert mean_corruption_error(extra) == mean_corruption_error(accuracy)
    del accuracy['fog']
    with pytest.raises(SimimError, match='no accuracy on fog') as error:
        mean_corruption_error(accuracy)
    assert one_sentence(error.value)


def test_mce_is_refused_outside_imagenet():
    data = sample(0, torch.ones(10), corruption='fog', severity=1)
    meta = dict(classes=tuple('abcdefghij'))
    with pytest.raises(SimimError, match='no meaning on these 10') as error:
        judge(dict(type='CorruptionError'), meta, [data])
    assert one_sentence(error.value)


def test_incomplete_set_is_refused():
    samples = [
        sample(0, one_hot(0, 2), corruption=c, severity=s)
        for c, s in CELLS
        if (c, s) != ('frost', 4)
    ]
    with pytest.raises(SimimError, match='frost/4') as error:
        judge(dict(type='CorruptionAccuracy'), dict(classes='ab'), samples)
    assert one_sentence(error.value)


def test_error_shows_how_to_pack_the_names():
    with pytest.raises(SimimError, match='meta_keys') as error:
        judge(
            dict(type='CorruptionAccuracy'),
            dict(classes='ab'),
            [sample(0, one_hot(0, 2))],
        )
    assert one_sentence(error.value)


# Common errors


@pytest.mark.parametrize('kind', ['SubsetAccuracy', 'CorruptionAccuracy'])
@pytest.mark.parametrize(
    'scores, words',
    [
        (torch.ones(10), 'has 10 classes and the data set 1000'),
        (torch.full((1000,), float('nan')), 'not finite'),
    ],
    ids=['head', 'nan'],
)
def test_wrong_head_and_non_finite_scores_are_refused(kind, scores, words):
    data = sample(0, scores, corruption='fog', severity=1)
    with pytest.raises(SimimError, match=words) as error:
        judge(dict(type=kind), dict(IMAGENET, subset=(1, 2)), [data])
    assert one_sentence(error.value)


# The paper's average


@pytest.mark.parametrize(
    'a, r, sketch, c, average',
    [
        (43.8, 52.5, 38.3, 57.1, 47.9),  # SiameseIM, 1600 epochs
        (32.4, 49.8, 35.9, 55.4, 43.4),  # MoCo-v3
        (35.9, 48.3, 34.5, 48.3, 41.8),  # MAE
    ],
)
def test_average_equals_the_papers(a, r, sketch, c, average):
    found = robustness_average(
        imagenet_a=a, imagenet_r=r, imagenet_sketch=sketch, imagenet_c=c
    )
    assert found == pytest.approx(average, abs=0.0501)


# Configs

CONFIGS = Path(__file__).parents[2] / 'configs'
IN1K = 'base-p16_ft-8xb128-amp-coslr-100e_in1k'
CIFAR = 'tiny-p4_ft-1xb128-amp-coslr-50e_cifar10'
DEMO = 'micro-p8_ft-1xb64-amp-coslr-10e_demo'


def read(folder: str, name: str) -> Config:
    return Config.fromfile(CONFIGS / folder / f'siamese_im_vit-{name}.py')


@pytest.mark.parametrize(
    'name, fine_tuned, dataset, evaluator',
    [
        ('base-p16_in1k-a', IN1K, 'ImageNetA', 'SubsetAccuracy'),
        ('base-p16_in1k-r', IN1K, 'ImageNetR', 'SubsetAccuracy'),
        ('base-p16_in1k-sketch', IN1K, 'ImageNetSketch', 'Accuracy'),
        ('base-p16_in1k-c', IN1K, 'ImageNetC', 'CorruptionError'),
        ('tiny-p4_cifar10-c', CIFAR, 'CorruptedFolder', 'CorruptionAccuracy'),
        ('micro-p8_demo-c', DEMO, 'CorruptedFolder', 'CorruptionAccuracy'),
    ],
)
def test_configs_change_only_the_test(name, fine_tuned, dataset, evaluator):
    """The fine-tuned classifier is not changed. ImageNet-C is not resized;
    the other sets are processed like the clean one."""
    found = read('robustness', name).to_dict()
    clean = read('classification', fine_tuned).to_dict()
    assert found['test_dataloader']['dataset']['type'] == dataset
    assert dataset in DATASETS
    assert found['test_evaluator']['type'] == evaluator
    assert evaluator in METRICS
    steps = found['test_dataloader']['dataset']['pipeline']
    if name.endswith('-c'):
        assert not any('Resize' in step['type'] for step in steps)
        assert steps[-1]['meta_keys'] == ('corruption', 'severity')
        if 'in1k' in name:
            assert steps[1] == dict(type='CenterCrop', crop_size=224)
    else:
        assert steps == clean['test_dataloader']['dataset']['pipeline']
        assert [step.get('size') for step in steps[2:4]] == [256, 224]
    for cfg in (found, clean):
        del cfg['test_dataloader']['dataset']
        for key in ('custom_imports', 'test_pipeline', 'test_evaluator'):
            cfg.pop(key, None)
    assert found == clean


@pytest.mark.parametrize(
    'file',
    sorted((CONFIGS / 'robustness').glob('*.py')),
    ids=lambda file: file.stem,
)
def test_configs_build_from_another_folder(file, tmp_path, monkeypatch):
    relative = os.path.relpath(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(relative)
    with torch.device('meta'):
        model = MODELS.build(config.model)
    head = model.head.fc
    assert head.out_features == config.model.data_preprocessor.num_classes
    METRICS.build(config.test_evaluator)
    cfg = dict(config.test_dataloader.dataset, lazy_init=True)
    dataset = DATASETS.build(cfg)
    assert [type(t).__name__ for t in dataset.pipeline.transforms][-1] == (
        'PackInputs'
    )
    with pytest.raises(SimimError, match='data/'):
        dataset.full_init()


@pytest.mark.slow
def test_demo_config_runs(tmp_path):
    """One corrupted scene per class and a constant classifier."""
    pytest.importorskip('imagecorruptions')
    make_demo_data(tmp_path / 'demo', train=1, val=8)
    make_corruptions(tmp_path / 'demo' / 'val', tmp_path / 'demo-c')
    cfg = read('robustness', 'micro-p8_demo-c')
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'demo-c')
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.launcher = 'none'
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    # The head always predicts class 3.
    model.head.fc.weight.data.zero_()
    model.head.fc.bias.data = 9.0 * one_hot(3, 8)
    cfg.load_from = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict=model.state_dict(), meta={}), cfg.load_from)
    found = RUNNERS.build(cfg).test()
    assert found == pytest.approx(
        {f'demo-c/{name}': 12.5 for name in (*CORRUPTIONS, 'mean_accuracy')}
    )
