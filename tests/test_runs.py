"""Train by the command line: every launcher, real images, resuming."""

import functools
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import DATASETS, MODELS

from simim_plugin import config_path
from simim_plugin.checkpoint import load_model
from simim_plugin.evaluation import (
    extract_features,
    folder_dataset,
    image_loader,
    knn_accuracy,
)
from simim_plugin.runs.stopping import STOP_CODE

from . import UPSTREAM
from .training_processes import DEMO, Run, end_all, run_tool, short

ROOT = Path(__file__).resolve().parents[1]
TRAIN = [sys.executable, str(ROOT / 'tools' / 'train.py')]
MIM = [sys.executable, '-m', 'mim', 'train']
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone']


def run(command, folder) -> None:
    """Run a command in ``folder``."""
    environment = dict(os.environ, PYTHONUNBUFFERED='1')
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def scalars(work_dir) -> list[dict]:
    """Return every logged iteration of every run in ``work_dir``."""
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    return [
        json.loads(line)
        for file in files
        for line in file.read_text().splitlines()
    ]


FIGURES = ('loss', 'positive_term', 'negative_term', 'grad_norm', 'lr')
TWO = ['--launcher', 'pytorch', '--gpus', '2']
LAUNCHERS = {
    'tools': (1, [*TRAIN, DEMO]),
    'tools, bf16': (1, [*TRAIN, DEMO, '--amp']),
    'mim mmpretrain': (1, [*MIM, 'mmpretrain', config_path(DEMO)]),
    'mim simim_plugin': (1, [*MIM, 'simim_plugin', DEMO]),
    'tools, 2 processes': (
        2,
        [*TORCHRUN, '--nproc_per_node=2', *TRAIN[1:], DEMO, *TWO[:2]],
    ),
    'mim simim_plugin, 2 processes': (2, [*MIM, 'simim_plugin', DEMO, *TWO]),
    'mim mmpretrain, 2 processes': (
        2,
        [*MIM, 'mmpretrain', config_path(DEMO), *TWO],
    ),
}


@pytest.fixture(autouse=True)
def no_run_is_left():
    yield
    end_all()


@pytest.fixture(scope='module')
def launched(tmp_path_factory, images):
    """Return a function: launcher -> work directory of its one run."""

    @functools.cache
    def launch(name) -> Path:
        if UPSTREAM and name.startswith('mim simim_plugin'):
            pytest.skip('openmim does not find editable installs')
        folder = tmp_path_factory.mktemp('launched')
        _, command = LAUNCHERS[name]
        words = [*command, '--work-dir', 'run', *short(images)]
        if name in ('tools', 'tools, bf16'):  # others are started cold
            done = run_tool('train.py', *words[len(TRAIN) :], cwd=folder)
            assert done.returncode == 0, done.stderr[-3000:]
        else:
            run(words, folder)
        return folder / 'run'

    return launch


@pytest.mark.slow
@pytest.mark.parametrize('name', LAUNCHERS)
def test_launchers_run(launched, name):
    processes, _ = LAUNCHERS[name]
    log = scalars(launched(name))
    assert len(log) == 24 // 4 // processes
    assert all(np.isfinite(line['loss']) for line in log)
    assert log[0]['lr'] == 0  # the first step of the warm-up
    assert log[1]['momentum'] > log[0]['momentum'] >= 0.9
    assert (launched(name) / 'epoch_1.pth').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_launchers_run_the_same(launched, processes):
    """Bit for bit, in float32."""
    first, *others = (
        [
            {figure: line[figure] for figure in FIGURES}
            for line in scalars(launched(name))
        ]
        for name, (count, _) in LAUNCHERS.items()
        if count == processes and 'bf16' not in name
    )
    assert others == [first, first]


AMP = 'optim_wrapper.type=AmpOptimWrapper'
ON_GPU = {
    'bf16': (TRAIN, []),
    'fp16': (TRAIN, [AMP, 'optim_wrapper.dtype=float16']),
    'compiled': (TRAIN, ['compile=True']),
    'DDP, SyncBN': ([*TORCHRUN, '--nproc_per_node=1', TRAIN[1]], []),
}


@pytest.mark.slow
@pytest.mark.gpu
def test_ways_to_train_on_a_gpu_agree(tmp_path, images):
    """The losses of six steps agree up to the precision of bf16."""
    losses = {}
    for name, (command, more) in ON_GPU.items():
        launcher = ['--launcher', 'pytorch'] * ('DDP' in name)
        command = [*command, DEMO, *launcher, '--work-dir', name]
        run([*command, *short(images, *more)], tmp_path)
        losses[name] = [line['loss'] for line in scalars(tmp_path / name)]
    for name, values in losses.items():
        assert len(values) == 6
        assert values == pytest.approx(losses['bf16'], rel=0.02), name


@pytest.mark.slow
def test_a_run_resumes_and_tensorboard_has_the_figures(tmp_path, images):
    (tmp_path / 'mine.py').write_text(
        f'_base_ = {config_path(DEMO)!r}\n'
        "visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), "
        "dict(type='TensorboardVisBackend')])\n"
    )
    options = short(
        images,
        'train_cfg.max_epochs=2',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=2',
    )
    arguments = ['--work-dir', 'run', *options]
    Run(tmp_path, *arguments, config='mine.py').end()
    folder = tmp_path / 'run'
    (folder / 'epoch_2.pth').unlink()
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    resumed = Run(tmp_path, '--resume', *arguments, config='mine.py')
    assert 'resumed epoch: 1, iter: 6' in resumed.end()
    log = scalars(folder)
    assert [line['step'] for line in log] == [*range(1, 13), *range(7, 13)]
    for before, after in zip(log[6:12], log[12:], strict=True):
        assert before['lr'] == after['lr']
        assert before['momentum'] == after['momentum']
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    events = sorted(folder.rglob('events.out.tfevents*'))[-1]
    tags = EventAccumulator(str(events)).Reload().Tags()['scalars']
    assert {
        'loss',
        'positive_term',
        'negative_term',
        'grad_norm',
        'momentum',
        'lr',
        'images_per_second',
    } <= set(tags)


@pytest.mark.slow
def test_a_new_run_starts_from_a_checkpoint_of_ours(tmp_path, images):
    def train(name, *more):
        arguments = ('--work-dir', name, *more, *short(images))
        return Run(tmp_path, *arguments, config=DEMO).end()

    train('first')
    file = tmp_path / 'first' / 'epoch_1.pth'
    assert f'tensors of {file}' in train('second', '--pretrained', file)
    # A new run: schedules start again, the weights are those of the file.
    assert scalars(tmp_path / 'second')[0]['lr'] == 0
    positive = [
        scalars(tmp_path / name)[0]['positive_term']
        for name in ('first', 'second')
    ]
    assert positive[1] < positive[0]


@pytest.mark.slow
@pytest.mark.shared
def test_vit_base_on_photographs(tmp_path, shared):
    """Three optimizer steps of the full recipe at 224 pixels."""
    printed = Run(
        tmp_path,
        *('--work-dir', 'run', '--cfg-options'),
        'train_dataloader.dataset.data_root='
        f'{shared / "data" / "imagenet_sample" / "images"}',
        'train_dataloader.dataset.indices=12',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=1',
        'train_cfg.max_epochs=1',
        'param_scheduler.warmup=1',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.save_last=False',
        config='siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k.py',
    ).end(seconds=800)
    log = scalars(tmp_path / 'run')
    assert len(log) == 3
    for line in log:
        assert all(np.isfinite(value) for value in line.values()), line
    # 1e-3 for 4096 images, 4 here, in a warm-up of three steps.
    assert 'optimizer steps of 4 images' in printed
    assert log[1]['lr'] == pytest.approx(1e-3 * 4 / 4096 / 3)
    # Targets are normalised: |t|^2 = D. At first |p - t|^2 is D + |p|^2.
    assert log[0]['positive_term'] > 0.9


CIFAR = 'siamese_im_vit-micro-p4_1xb64-coslr-2e_cifar10.py'


def packed_cifar(shared, split) -> tuple[list[bytes], np.ndarray]:
    """Return the JPEG streams and labels of a split."""
    packed = np.load(shared / 'data' / 'cifar10' / f'cifar10_{split}_jpeg.npz')
    jpeg, offsets = packed['jpeg'].tobytes(), packed['offsets']
    streams = [jpeg[start:end] for start, end in itertools.pairwise(offsets)]
    return streams, packed['labels']


@pytest.fixture(scope='module')
def cifar_folder(tmp_path_factory, shared) -> Path:
    """Write CIFAR-10 as an image folder: 500 + 200 images of each class."""
    root = tmp_path_factory.mktemp('cifar')
    for split, name, count in (('train', 'train', 500), ('test', 'val', 200)):
        streams, labels = packed_cifar(shared, split)
        for label in range(10):
            folder = root / name / str(label)
            folder.mkdir(parents=True)
            for k in np.flatnonzero(labels == label)[:count]:
                (folder / f'{k}.jpg').write_bytes(streams[k])
    return root


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.shared
@pytest.mark.timeout(1800)
def test_cifar10_is_learned(tmp_path, cifar_folder):
    """In minutes on real images the loss falls and kNN rises."""
    # The first epochs of 16 of an encoder of half the width and depth.
    epochs, seed = 6, 1
    (tmp_path / 'mine.py').write_text(
        f"""_base_ = {config_path(CIFAR)!r}
model = dict(
    backbone=dict(arch=dict(
        embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=256)),
    projector=dict(in_dims=64, embed_dims=64, num_heads=2),
    neck=dict(embed_dims=64, depth=1, num_heads=2),
    head=dict(negative_weight=0.24))
train_dataloader = dict(dataset=dict(
    _delete_=True, type='ImageFolder',
    data_root={str(cifar_folder / 'train')!r},
    pipeline=[dict(type='LoadRGBImage'), *_base_.train_pipeline]))
train_cfg = dict(max_epochs=16)
randomness = dict(seed={seed})
param_scheduler = dict(warmup=1)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval={epochs}))
log_processor = dict(window_size=10)
"""
    )
    training = Run(tmp_path, '--work-dir', 'run', config='mine.py')
    checkpoint = tmp_path / 'run' / f'epoch_{epochs}.pth'
    while not checkpoint.exists():
        assert training.process.is_alive(), training.printed[-3000:]
        time.sleep(1)
    training.kill(signal.SIGTERM)
    training.end(STOP_CODE)
    losses = [line['loss'] for line in scalars(tmp_path / 'run')]
    assert losses[-1] < 0.8 * losses[0]
    config = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope('mmpretrain')
    torch.manual_seed(seed)
    model = MODELS.build(config.model)
    model.init_weights()
    before = knn_of(model, cifar_folder)
    load_model(model, checkpoint)
    after = knn_of(model, cifar_folder)
    print('KNN', before, after, losses[0], losses[-1])
    assert after > before + 3


def knn_of(model, root) -> float:
    """Return the kNN accuracy (k = 20) of the online backbone, percent."""
    features = [
        extract_features(model, image_loader(folder_dataset(root / split, 32)))
        for split in ('train', 'val')
    ]
    return knn_accuracy(*features[0], *features[1], ks=(20,))[20]


@pytest.mark.slow
@pytest.mark.shared
def test_stock_cifar10_files_are_read(tmp_path, shared, monkeypatch):
    """Our pipeline works on MMPretrain's class for the pickled batches."""
    streams, labels = packed_cifar(shared, 'train')
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    chosen = iter(np.random.default_rng(0).permutation(len(streams)))
    for name, _ in CIFAR10.train_list:
        index = [next(chosen) for _ in range(4)]
        pixels = [
            cv2.imdecode(np.frombuffer(streams[k], np.uint8), 1)[..., ::-1]
            for k in index
        ]
        rows = np.stack(pixels).transpose(0, 3, 1, 2).reshape(4, -1)
        batch = dict(data=rows, labels=[int(labels[k]) for k in index])
        (folder / name).write_bytes(pickle.dumps(batch))
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    monkeypatch.setattr(CIFAR10, '_load_meta', lambda self: None)
    config = Config.fromfile(config_path(CIFAR))
    config.train_dataloader.dataset.data_root = str(tmp_path)
    init_default_scope('mmpretrain')
    dataset = DATASETS.build(config.train_dataloader.dataset)
    assert len(dataset) == 20
    sample = dataset[3]
    online, target = sample['inputs']
    assert online.shape == target.shape == (3, 32, 32)
    assert online.dtype == torch.uint8
    assert sample['data_samples'].mask.sum() == 38
