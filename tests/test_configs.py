"""Every config builds from anywhere, and its numbers are the recipe's."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain import get_model, list_models
from mmpretrain.registry import (
    HOOKS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    TRANSFORMS,
)

from simim_plugin.models import SiameseIM

ROOT = Path(__file__).resolve().parents[1] / 'configs'
PRETRAINING = sorted((ROOT / 'siamese_im').glob('*.py'))


def load(name) -> Config:
    (file,) = ROOT.rglob(f'{name}.py')
    return Config.fromfile(file)


def transform(config, kind):
    (found,) = (t for t in config.train_pipeline if t['type'] == kind)
    return found


@pytest.mark.parametrize('file', PRETRAINING, ids=lambda file: file.stem)
def test_builds_from_another_folder(file, tmp_path, monkeypatch):
    relative = os.path.relpath(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(relative)
    init_default_scope('mmpretrain')
    with torch.device('meta'):  # ViT-H has 5 GB of weights
        MODELS.build(config.model)
    for cfg in config.train_dataloader.dataset.pipeline:
        TRANSFORMS.build(cfg)
    for cfg in config.custom_hooks:
        HOOKS.build(cfg)
    assert config.optim_wrapper.constructor in OPTIM_WRAPPER_CONSTRUCTORS
    assert config.custom_imports.allow_failed_imports is False
    # One grid, in three places.
    vit = config.model.backbone
    grid = vit.img_size // vit.patch_size
    assert tuple(config.model.neck.grid) == (grid, grid)
    assert tuple(transform(config, 'BlockwiseMask')['grid']) == (grid, grid)
    assert transform(config, 'PairedViews')['size'] == vit.img_size


IN1K = {
    'siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k': (1600, 118),
    'siamese_im_vit-base-p16_8xb512-amp-coslr-400e_in1k': (400, 118),
    'siamese_im_vit-base-p16_8xb512-fp16-coslr-1600e_in1k': (1600, 118),
    'siamese_im_vit-large-p16_32xb128-amp-coslr-1600e_in1k': (1600, 118),
    'siamese_im_vit-huge-p14_64xb64-amp-coslr-1600e_in1k': (1600, 154),
}


@pytest.mark.parametrize('name', IN1K)
def test_imagenet_recipe(name):
    """REFERENCE 3 and 6; the paper's appendix."""
    epochs, masked = IN1K[name]
    config = load(name)
    assert config.train_cfg.max_epochs == epochs
    optimizer = config.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW'
    assert optimizer.lr == pytest.approx(1e-3)
    assert optimizer.betas == (0.9, 0.95)
    assert optimizer.weight_decay == 0.05
    assert config.optim_wrapper.clip_grad == dict(max_norm=1.0)
    assert config.auto_scale_lr == dict(base_batch_size=4096, enable=True)
    gpus = int(name.split('xb')[0].rpartition('_')[2])
    assert gpus * config.train_dataloader.batch_size == 4096
    assert config.param_scheduler == dict(
        type='WarmupCosineLR', warmup=40, convert_to_iter_based=True
    )
    assert config.sync_bn == 'torch'
    momentum = config.custom_hooks[0]
    assert momentum == dict(type='MomentumHook', base_momentum=0.995)
    assert config.model.head.negative_weight == 0.02
    assert config.model.projector.depth == 2
    assert config.model.neck.depth == 4
    assert config.model.neck.embed_dims == 768
    assert config.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert config.model.data_preprocessor.std == [58.395, 57.12, 57.375]
    mask = transform(config, 'BlockwiseMask')
    assert (mask['num_masked'], mask['min_block']) == (masked, 16)
    assert transform(config, 'PairedViews')['crop_scale'] == (0.08, 1.0)
    half = 'fp16' in name
    kind = 'AmpOptimWrapper' if half else 'AutocastOptimWrapper'
    assert config.optim_wrapper.type == kind


def test_photometric_recipe():
    """REFERENCE 3.4: jitter (0.4, 0.4, 0.2, 0.1) at 0.8, grey at 0.2 in
    both; blur at 1 in the online, at 0.1 in the target view, which alone is
    solarised, at 0.2 above 128."""
    config = load('siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k')
    views = transform(config, 'PairedViews')
    online, target = views['online'], views['target']
    for view in (online, target):
        jitter, grey = view[:2]
        assert jitter == dict(
            type='FastColorJitter',
            prob=0.8,
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
        )
        assert grey == dict(type='FastGrayscale', prob=0.2)
    assert [t['prob'] for t in online[2:]] == [1.0]
    assert [t['prob'] for t in target[2:]] == [0.1, 0.2]
    for blur in (online[2], target[2]):
        assert blur['type'] == 'FastGaussianBlur'
        assert blur['magnitude_range'] == (0.1, 2.0)
        assert blur['magnitude_std'] == 'inf'  # uniform
    assert (target[3]['type'], target[3]['thr']) == ('Solarize', 128)


def test_accumulation_counts_in_the_base_batch():
    config = load('siamese_im_vit-base-p16_1xb64-accum8-amp-coslr-400e_folder')
    assert config.optim_wrapper.accumulative_counts == 8
    assert config.auto_scale_lr.base_batch_size == 4096


def test_mmpretrain_knows_the_names():
    """After one import, by name, as its own models."""
    known = set(list_models('siamese_im*'))
    assert known >= {file.stem for file in PRETRAINING}
    model = get_model('siamese_im_vit-tiny-p8_demo')
    assert isinstance(model, SiameseIM)
    assert model.backbone.patch_resolution == (8, 8)
