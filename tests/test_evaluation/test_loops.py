"""Test configs of frozen features, run by Runner.test()."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from PIL import Image

from simim_plugin import config_path
from simim_plugin.commands.command_line import build_runner
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import (
    extract_features,
    folder_dataset,
    image_loader,
    knn_accuracy,
)
from simim_plugin.evaluation.logistic import logistic_accuracy

ROOT = Path(__file__).resolve().parents[2]
KNN = 'siamese_im_vit-micro-p8_knn_demo.py'
LOGISTIC = 'siamese_im_vit-micro-p8_logistic_demo.py'


@pytest.fixture(scope='module')
def demo(tmp_path_factory) -> Path:
    """Create faintly tinted noise of three classes: 11 train, 7 val images."""
    root = tmp_path_factory.mktemp('demo')
    rng = np.random.default_rng(0)
    for split, count in (('train', 11), ('val', 7)):
        for k in range(count):
            folder = root / split / f'class{k % 3}'
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.uniform(0, 256, (64, 64, 3))
            pixels[..., k % 3] *= 0.985  # 1.7 standard errors of the mean
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{k}.png')
    return root


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> str:
    """Save a checkpoint of random weights in the format of a run."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config_path(KNN)).model)
    model.init_weights()
    file = tmp_path_factory.mktemp('weights') / 'epoch_1.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict()), file)
    return str(file)


def options(demo) -> dict:
    return {
        f'{loader}.{key}': value
        for loader, split in (
            ('test_dataloader', 'val'),
            ('test_cfg.train_dataloader', 'train'),
        )
        for key, value in (
            ('dataset.data_root', str(demo / split)),
            ('batch_size', 4),
            ('num_workers', 0),
            ('persistent_workers', False),
        )
    }


def run_test(name, demo, weights, work_dir, **more) -> dict:
    config = Config.fromfile(config_path(name))
    config.merge_from_dict({**options(demo), **more})
    config.load_from = weights
    config.work_dir = str(work_dir)
    config.launcher = 'none'
    config.experiment_name = f'{name}_{work_dir.name}'
    return build_runner(config).test()


def directly(demo, weights, pool):
    """Compute features and labels of both splits without Runner and loop."""
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(config_path(KNN)).model)
    model.load_state_dict(torch.load(weights)['state_dict'])
    return [
        part
        for split in ('train', 'val')
        for part in extract_features(
            model, image_loader(folder_dataset(demo / split, 64), 4), pool
        )
    ]


@pytest.mark.parametrize('pool', ['mean', 'cls'])
def test_knn(demo, weights, tmp_path, pool):
    metrics = run_test(
        KNN,
        demo,
        weights,
        tmp_path,
        **{'test_cfg.pool': pool, 'test_cfg.classifier.ks': (1, 3, 20)},
    )
    expected = knn_accuracy(*directly(demo, weights, pool), ks=(1, 3, 20))
    assert metrics == {f'knn/top1_k{k}': v for k, v in expected.items()}
    assert all(0 < value < 100 for value in metrics.values())
    (log,) = tmp_path.glob('*/*.json')
    assert json.loads(log.read_text())['knn/top1_k20'] == expected[20]


@pytest.mark.parametrize('l2', [None, 10.0])
def test_logistic(demo, weights, tmp_path, l2):
    metrics = run_test(
        LOGISTIC, demo, weights, tmp_path, **{'test_cfg.classifier.l2': l2}
    )
    features = directly(demo, weights, 'mean')
    expected = logistic_accuracy(*features, l2=l2)
    assert metrics == {'logistic/top1': pytest.approx(expected)}


def test_several_classifiers_of_the_same_features(demo, weights, tmp_path):
    knn = dict(type='KNNClassifier', ks=(3, 20))
    logistic = dict(type='LogisticClassifier')
    key = 'test_cfg.classifier'
    found = [
        run_test(LOGISTIC, demo, weights, tmp_path / name, **{key: both})
        for name, both in (
            ('both', [knn, logistic]),
            ('knn', [knn]),
            ('logistic', [logistic]),
        )
    ]
    assert found[0] == found[1] | found[2]
    assert len(found[0]) == 3
    with pytest.raises(SimimError, match='return knn/top1_k20; keep one'):
        run_test(
            LOGISTIC,
            demo,
            weights,
            tmp_path / 'same',
            **{key: [knn, dict(knn, ks=(20,))]},
        )


def test_list_file_selects_the_training_images(demo, weights, tmp_path):
    """The list has no image of class1, so class1 is never predicted."""
    file = tmp_path / 'list.txt'
    file.write_text('class0/0.png\nclass0/3.png\nclass2/2.png\n')
    metrics = run_test(
        LOGISTIC,
        demo,
        weights,
        tmp_path,
        **{'test_cfg.train_dataloader.dataset.list_file': str(file)},
    )
    train, labels, val, val_labels = directly(demo, weights, 'mean')
    names = [f'class{label}' for label in labels.tolist()]
    assert names == ['class0'] * 4 + ['class1'] * 4 + ['class2'] * 3
    # The images in order: 0, 3, 6, 9; 1, 10, 4, 7; 2, 5, 8.
    rows = [0, 1, 8]
    expected = logistic_accuracy(train[rows], labels[rows], val, val_labels)
    assert metrics == {'logistic/top1': pytest.approx(expected)}


@pytest.mark.parametrize('name', [KNN, LOGISTIC])
def test_class_without_test_images(demo, weights, tmp_path, name):
    """Otherwise later labels would mean different classes."""
    shutil.copytree(demo / 'train', tmp_path / 'train')
    shutil.copytree(demo / 'val', tmp_path / 'val')
    shutil.rmtree(tmp_path / 'val' / 'class1')
    words = r'3 classes and the test set 2, .* \(class1\)'
    with pytest.raises(SimimError, match=words) as error:
        run_test(name, tmp_path, weights, tmp_path / 'run')
    assert '\n' not in str(error.value)


def test_no_worker_outlives_the_test(demo, weights, tmp_path):
    workers = {
        f'{loader}.{key}': value
        for loader in ('test_dataloader', 'test_cfg.train_dataloader')
        for key, value in (('num_workers', 1), ('persistent_workers', True))
    }
    run_test(KNN, demo, weights, tmp_path, **workers)
    assert not multiprocessing.active_children()


def run(command, folder) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
def test_mim_test(demo, weights, tmp_path):
    command = [sys.executable, '-m', 'mim', 'test', 'mmpretrain']
    changes = [f'{key}={value}' for key, value in options(demo).items()]
    printed = run(
        [
            *(*command, config_path(KNN), '--checkpoint', weights),
            *('--cfg-options', *changes),
        ],
        tmp_path,
    )
    expected = knn_accuracy(*directly(demo, weights, 'mean'))
    assert f'knn/top1_k20: {expected[20]:.4f}' in printed


@pytest.mark.slow
def test_two_processes_get_the_metrics_of_one(demo, weights, tmp_path):
    """With 11 and 7 images the sampler repeats one in the second process."""
    changes = [f'{key}={value}' for key, value in options(demo).items()]
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    run(
        [
            *(*command, '--nproc_per_node=2', ROOT / 'tools' / 'test.py'),
            *(KNN, weights, '--launcher', 'pytorch', '--out', 'out.json'),
            *('--cfg-options', *changes, 'test_cfg.classifier.ks=(1,3)'),
        ],
        tmp_path,
    )
    metrics = json.loads((tmp_path / 'out.json').read_text())
    features = directly(demo, weights, 'mean')
    expected = knn_accuracy(*features, ks=(1, 3))
    assert metrics == {
        f'knn/top1_k{k}': pytest.approx(v) for k, v in expected.items()
    }
