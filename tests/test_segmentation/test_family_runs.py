"""Segmentation runs with the encoders of every family."""

import numpy as np
import pytest
import torch
from mmengine.config import Config

from simim_plugin import config_path
from simim_plugin.checkpoint import read_weights
from simim_plugin.demo.data import make_demo_data
from simim_plugin.models import SiameseIMViT

from ..test_checkpoint.families import TIMM, saved
from ..test_checkpoint.helpers import DEPTH, DIMS, HEADS, images
from .test_runs import KNN, LINEAR, UPERNET, evaluate, logged, state_of, train

SIZE = 64
SHORT = {
    'train_dataloader.batch_size': 2,
    'default_hooks.checkpoint.interval': 2,
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'demo'
    make_demo_data(folder, train=4, val=2, seed=3)
    return folder


def frozen(file):
    """Return the settings of a backbone of frozen features."""
    return dict(
        type='mmpretrain.SiameseIMViT',
        img_size=SIZE,
        out_type='featmap',
        frozen_stages=DEPTH,
        pretrained=str(file),
        **read_weights(file).options(HEADS),
    )


def written(name, folder, backbone, **model):
    """Write a config of the demo with another backbone."""
    config = Config.fromfile(config_path(name))
    config.model.backbone = dict(backbone)
    for part, changes in model.items():
        if changes is None:
            config.model[part] = None
        else:
            config.model[part].update(changes)
    config.dump(folder / 'mine.py')
    return str(folder / 'mine.py')


def features_of(file):
    """Return what the encoder computes for the images of a test."""
    settings = frozen(file)
    del settings['type']
    encoder = SiameseIMViT(**settings)
    encoder.init_weights()
    with torch.no_grad():
        return encoder.eval()(images(SIZE))[0]


def check_features(runner, file):
    """Check that a model reads what the encoder computes."""
    with torch.no_grad():
        found = runner.model.eval().extract_feat(images(SIZE))[0]
    wanted = features_of(file)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize('kind', TIMM)
def test_knn_reads_the_encoder(tmp_path, scenes, kind):
    _, file = saved(kind, tmp_path)
    name = written(
        KNN, tmp_path, frozen(file), decode_head=dict(in_channels=DIMS)
    )
    memory = 'test_cfg.train_dataloader'
    backbone = {'model.backbone.pretrained': file}
    runner, metrics = evaluate(
        *(name, file, scenes, tmp_path / 'run', memory), **backbone
    )
    assert 0 <= metrics['mIoU'] <= 100
    count = len(runner.model.decode_head.features)
    assert 0 < count <= 4 * (SIZE // 8) ** 2  # labelled patches
    check_features(runner, file)


@pytest.mark.parametrize('kind', TIMM)
def test_a_linear_head_reads_the_encoder(tmp_path, scenes, kind):
    _, file = saved(kind, tmp_path)
    name = written(
        LINEAR, tmp_path, frozen(file), decode_head=dict(in_channels=DIMS)
    )
    runner = train(name, scenes, tmp_path / 'run', iterations=2, **SHORT)
    assert np.isfinite(logged(tmp_path / 'run', 'loss')).all()
    state = state_of(tmp_path / 'run' / 'iter_2.pth')
    assert state['decode_head.conv_seg.weight'].any()
    check_features(runner, file)


@pytest.mark.parametrize('kind', TIMM)
def test_upernet_learns_from_the_encoder(tmp_path, scenes, kind):
    """From its two blocks, which are too few for the pyramid."""
    _, file = saved(kind, tmp_path)
    backbone = dict(
        type='SiameseIMSegViT',
        img_size=SIZE,
        out_indices=(0, 1),
        pretrained=str(file),
        **read_weights(file).options(HEADS),
    )
    wide = dict(in_channels=[DIMS, DIMS], in_index=[0, 1])
    name = written(
        UPERNET,
        tmp_path,
        backbone,
        neck=None,
        decode_head=wide,
        auxiliary_head=dict(in_channels=DIMS, in_index=1),
    )
    train(name, scenes, tmp_path / 'run', iterations=2, **SHORT)
    assert np.isfinite(logged(tmp_path / 'run', 'loss')).all()
    assert 0 <= logged(tmp_path / 'run', 'mIoU')[-1] <= 100
