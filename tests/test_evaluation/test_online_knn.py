"""kNN during training: its figures, and a run it does not disturb."""

import logging
import multiprocessing
import random
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.models import MAEViT
from mmpretrain.registry import MODELS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from simim_plugin.checkpoint import read_weights
from simim_plugin.config_files import config_path
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import (
    extract_features,
    folder_dataset,
    image_loader,
    knn_accuracy,
    online_knn,
)
from simim_plugin.evaluation.features import encode_tokens
from simim_plugin.evaluation.online_knn import OnlineKNN
from simim_plugin.visualization.encoder import FrozenEncoder

from ..test_checkpoint.helpers import scramble
from ..test_engine.training import (
    Pairs,
    printed,
    same,
    scalars,
    state,
    trainer,
)
from ..test_models.helpers import small_model


@pytest.fixture
def train(tmp_path):
    """Train with the given hooks and return the Runner."""
    return trainer(tmp_path)


@pytest.fixture
def folders(tmp_path):
    """Make three classes of coloured noise, 12 + 6 images."""
    generator = np.random.default_rng(0)
    for split, images in (('train', 12), ('val', 6)):
        for k in range(images):
            folder = tmp_path / split / 'abc'[k % 3]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 100, (16, 16, 3), np.uint8)
            pixels[..., k % 3] += 60
            Image.fromarray(pixels).save(folder / f'{k}.png')
    return dict(train=str(tmp_path / 'train'), val=str(tmp_path / 'val'))


def knn_entries(runner) -> list[dict]:
    return [line for line in scalars(runner) if 'knn/top1_k3' in line]


def test_online_knn_is_the_packages_knn(train, folders):
    hook = dict(type='OnlineKNN', **folders, interval=2, k=3)
    runner = train(hook, epochs=3)
    entries = knn_entries(runner)
    # After every second epoch and the last, by the steps done.
    assert [(e['epoch'], e['step']) for e in entries] == [(2, 12), (3, 18)]
    assert runner.model.training
    (train_, val) = (
        extract_features(
            runner.model, image_loader(folder_dataset(folders[name], 16))
        )
        for name in ('train', 'val')
    )
    expected = knn_accuracy(*train_, *val, ks=[3])[3]
    assert entries[-1]['knn/top1_k3'] == expected
    assert (
        f'kNN after epoch 3: {expected:.2f} % of 6 images (k = 3, 12 images '
        'vote)'
    ) in printed(runner)


@pytest.mark.parametrize(
    ('name', 'pool', 'branch'),
    [
        ('moco-v3', None, 'online'),
        ('moco-v3', 'mean', 'teacher'),
        ('dino', None, 'teacher'),
        ('msn', None, 'online'),
        ('densecl', None, 'target'),
        ('supervised', None, 'online'),
    ],
)
def test_online_knn_reads_the_encoder_as_the_evaluation_does(
    folders, tmp_path, monkeypatch, name, pool, branch
):
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    init_default_scope('mmpretrain')
    config = Config.fromfile(config_path(f'siamese_im_rival-{name}.py'))
    model = MODELS.build(config.model)
    scramble(model)
    kind = model.backbone.out_type
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'run.pth')
    hook = OnlineKNN(**folders, k=3, pool=pool, branch=branch)
    logged = {}
    runner = SimpleNamespace(
        model=model,
        train_dataloader=SimpleNamespace(dataset=Pairs()),
        epoch=9,
        iter=60,
        timestamp='now',
        logger=logging.getLogger(),
        visualizer=SimpleNamespace(
            add_scalars=lambda scalars, **_: logged.update(scalars)
        ),
    )
    pools = []
    monkeypatch.setattr(
        online_knn,
        'extract_features',
        lambda model, loader, pool: (
            pools.append(pool),
            extract_features(model, loader, pool),
        )[1],
    )
    hook.before_train(runner)
    hook.after_train_epoch(runner)
    weights = read_weights(tmp_path / 'run.pth', branch)
    assert {*pools} == {pool or weights.family.pool}
    frozen = FrozenEncoder(tmp_path / 'run.pth', 48, branch=branch)
    train, val = (
        extract_features(
            frozen, image_loader(folder_dataset(folders[part], 48)), pools[0]
        )
        for part in ('train', 'val')
    )
    assert logged['knn/top1_k3'] == knn_accuracy(*train, *val, ks=[3])[3]
    assert model.backbone.out_type == kind


def test_online_knn_of_a_branch_that_is_not_there(folders):
    model = SimpleNamespace(backbone=None, target=None)
    hook = OnlineKNN(**folders, branch='teacher')
    with pytest.raises(SimimError, match=r"branch='teacher', which .* leave"):
        hook.before_train(SimpleNamespace(model=model))


def test_online_knn_on_fewer_images(train, folders):
    hook = dict(type='OnlineKNN', **folders, k=3, max_train=5, max_val=3)
    assert '% of 3 images (k = 3, 5 images vote)' in printed(train(hook))


class Drawn(Pairs):
    """Items that depend on all three random generators."""

    def __getitem__(self, k):
        item = super().__getitem__(k)
        shift = random.random() + np.random.rand() + torch.rand(1).item()
        item['inputs'] = [view + shift for view in item['inputs']]
        return item


def test_training_is_the_same_without_online_knn(train, folders, monkeypatch):
    states = []
    hook = dict(type='OnlineKNN', **folders, interval=1, k=3)
    for hooks in ([], [hook]):
        states.append(state(train(*hooks, dataset=Drawn(), epochs=3)))
    assert same(*states)
    # It does draw: without restoring the generators the states differ.
    monkeypatch.setattr(online_knn, 'same_random_state', nullcontext)
    assert not same(state(train(hook, dataset=Drawn(), epochs=3)), states[0])


def test_a_missing_folder_is_reported_before_training(train, folders):
    hook = dict(type='OnlineKNN', **dict(folders, val='/no/such/folder'))
    with pytest.raises(SimimError, match='no image folder at /no/such'):
        train(hook)
    assert train.runner.iter == 0


def test_folders_of_other_classes_are_refused(train, folders):
    """Their labels would stand for other classes."""
    shutil.rmtree(Path(folders['val'], 'a'))
    with pytest.raises(SimimError, match='3 classes and the validation set 2'):
        train(dict(type='OnlineKNN', **folders))
    assert train.runner.iter == 0


def test_one_class_is_refused_before_training(train, folders):
    for folder in folders.values():
        for name in ('b', 'c'):
            shutil.rmtree(Path(folder, name))
    with pytest.raises(
        SimimError, match=r'two classes or more, and .* has on'
    ):
        train(dict(type='OnlineKNN', **folders))
    assert train.runner.iter == 0


def test_votes_of_one_class_are_refused_before_training(train, folders):
    with pytest.raises(SimimError, match=r'of one class; raise max_train'):
        train(dict(type='OnlineKNN', **folders, max_train=1))
    assert train.runner.iter == 0


def test_the_encoder_of_mae_sees_the_whole_image():
    arch = dict(
        embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32
    )
    backbone = MAEViT(arch=arch, img_size=16, patch_size=4, out_type='raw')
    images = torch.randn(2, 3, 16, 16)
    tokens = encode_tokens(SimpleNamespace(backbone=backbone), images)
    assert tokens.shape == (2, 17, 16)
    assert torch.equal(tokens, backbone(images, mask=None)[-1])


def test_online_knn_needs_an_image_for_every_process(
    train, folders, monkeypatch
):
    monkeypatch.setattr(online_knn, 'get_world_size', lambda: 8)
    with pytest.raises(SimimError, match=r'6 images of .*val.* 8 processes'):
        train(dict(type='OnlineKNN', **folders))
    assert train.runner.iter == 0


def test_a_stop_during_online_knn_finds_its_checkpoint(train, folders):
    """Schedulers signal all processes, loader workers too."""
    model, signalled = small_model(), []

    def stop(*_):
        if model.backbone.training or signalled:
            return
        (worker,) = multiprocessing.active_children()
        # SIGTERM from this process, the parent, would end the worker.
        for name in ('-TERM', '-USR1'):
            subprocess.check_call(['kill', name, str(worker.pid)])
        signalled.append((train.runner.folder / 'epoch_1.pth').exists())

    model.backbone.register_forward_hook(stop)
    hook = dict(type='OnlineKNN', **folders, batch_size=1, num_workers=1)
    assert 'kNN after epoch 1' in printed(train(hook, model=model))
    assert signalled == [True]


def test_online_knn_logs_to_tensorboard_and_shows_progress(
    train, folders, monkeypatch, capfd
):
    monkeypatch.setattr('simim_plugin.evaluation.features.QUIET_SECONDS', 0.0)
    backends = [
        dict(type='LocalVisBackend'),
        dict(type='TensorboardVisBackend'),
    ]
    runner = train(
        dict(type='OnlineKNN', **folders, k=3, batch_size=4),
        visualizer=dict(type='Visualizer', vis_backends=backends),
    )
    assert 'features: batch 1 of 3, ' in capfd.readouterr().err
    (folder,) = runner.folder.glob('*/vis_data')
    events = EventAccumulator(str(folder))
    events.Reload()
    (event,) = events.Scalars('knn/top1_k3')
    assert event.step == 6
    (entry,) = knn_entries(runner)
    assert event.value == pytest.approx(entry['knn/top1_k3'])
