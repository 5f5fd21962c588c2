"""Pretraining configs build from any folder and match the recipe."""

import ast
import copy
import os
import re
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

from simim_plugin import config_path
from simim_plugin.commands.command_line import find_config
from simim_plugin.config_files import ABLATION_SCALES
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIM
from simim_plugin.settings import apply_img_size, check_settings
from simim_plugin.vit.arches import MICRO

ROOT = Path(__file__).resolve().parents[1] / 'configs'
FILES = sorted(ROOT.rglob('*.py'))
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
    # The grid stands in three places.
    vit = config.model.backbone
    grid = vit.img_size // vit.patch_size
    assert tuple(config.model.neck.grid) == (grid, grid)
    assert tuple(transform(config, 'BlockwiseMask')['grid']) == (grid, grid)
    assert transform(config, 'PairedViews')['size'] == vit.img_size


# Epochs, warm-up, masked patches and images per optimizer step
RECIPE = {
    'siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k': (
        1600, 40, 118, 4096),
    'siamese_im_vit-base-p16_8xb512-amp-coslr-400e_in1k': (
        400, 40, 118, 4096),
    'siamese_im_vit-base-p16_8xb512-fp16-coslr-1600e_in1k': (
        1600, 40, 118, 4096),
    'siamese_im_vit-large-p16_32xb128-amp-coslr-1600e_in1k': (
        1600, 40, 118, 4096),
    'siamese_im_vit-huge-p14_64xb64-amp-coslr-1600e_in1k': (
        1600, 40, 154, 4096),
    'siamese_im_vit-base-p16_1xb64-accum8-amp-coslr-400e_folder': (
        400, 40, 118, 512),
    'siamese_im_vit-base-p16_1xb64-accum8-amp-coslr-100e_continue': (
        100, 5, 118, 512),
}  # fmt: skip
ONE_GPU = [
    f'siamese_im_vit-{size}-p16_1xb256-accum4-amp-coslr-400e_{data}'
    for size in ('small', 'tiny')
    for data in ('in1k', 'folder')
]
AT_128 = [f'{name}-128x128' for name in ONE_GPU]
SMALL_FIRST = [
    f'{name}-small-first'
    for name in (
        'siamese_im_vit-base-p16_8xb512-amp-coslr-400e_in1k',
        *ONE_GPU[:2],
    )
]
RECIPE |= dict.fromkeys(ONE_GPU, (400, 40, 118, 1024))
RECIPE |= {name: RECIPE[name[: -len('-small-first')]] for name in SMALL_FIRST}
RECIPE |= dict.fromkeys(AT_128, (400, 40, 38, 1024))
WIDTHS = dict(small=384, tiny=192)


@pytest.mark.parametrize('name', RECIPE)
def test_recipe(name):
    """Compare with the paper's appendix and docs/method.md."""
    epochs, warmup, masked, images = RECIPE[name]
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
    micro_steps = config.optim_wrapper.get('accumulative_counts', 1)
    batch = config.train_dataloader.batch_size
    assert gpus * batch * micro_steps == images
    assert config.param_scheduler == dict(
        type='WarmupCosineLR', warmup=warmup, convert_to_iter_based=True
    )
    assert 'sync_bn' not in config  # TokenBatchNorm spans all processes
    assert config.momentum_hook in config.custom_hooks
    assert config.momentum_hook == dict(
        type='MomentumHook', base_momentum=0.995
    )
    width = WIDTHS.get(name.split('-')[1], 768)
    assert config.model.projector.depth == 2
    assert config.model.neck.depth == 4
    assert config.model.neck.embed_dims == width
    assert config.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert config.model.data_preprocessor.std == [58.395, 57.12, 57.375]
    mask = transform(config, 'BlockwiseMask')
    block = 6 if name in AT_128 else 16
    assert (mask['num_masked'], mask['min_block']) == (masked, block)
    assert transform(config, 'PairedViews')['crop_scale'] == (0.08, 1.0)
    half = 'fp16' in name
    kind = 'AmpOptimWrapper' if half else 'AutocastOptimWrapper'
    assert config.optim_wrapper.type == kind


JITTER = dict(
    type='FastColorJitter',
    prob=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
)
GREYSCALE = dict(type='FastGrayscale', prob=0.2)


@pytest.mark.parametrize('name', RECIPE)
def test_photometric_recipe(name):
    """Compare with docs/method.md.

    Both views have jitter with probability 0.8 and greyscale with 0.2. Blur
    has 1 in the online view and 0.1 in the target view. Only the target view
    is solarised, above 128 with probability 0.2.
    """
    config = load(name)
    views = transform(config, 'PairedViews')
    online, target = views['online'], views['target']
    for view in (online, target):
        assert view[:2] == [JITTER, GREYSCALE]
    assert [t['prob'] for t in online[2:]] == [1.0]
    assert [t['prob'] for t in target[2:]] == [0.1, 0.2]
    for blur in (online[2], target[2]):
        assert blur['type'] == 'FastGaussianBlur'
        assert blur['magnitude_range'] == (0.1, 2.0)
        assert blur['magnitude_std'] == 'inf'  # uniform
    assert (target[3]['type'], target[3]['thr']) == ('Solarize', 128)


DEMO = dict(
    width=128,
    depths=(1, 1),
    negative_weight=0.12,
    lr=1e-3,
    batch=64,
    warmup=1,
    epochs=20,
    momentum=0.99,
    mask=(21, 4),
    crop_scale=(0.4, 1.0),
    colour=[
        dict(
            type='FastColorJitter',
            brightness=0.5,
            contrast=0.5,
            saturation=0.25,
            hue=0.02,
        )
    ],
)
SMALL = {
    'siamese_im_vit-tiny-p4_1xb512-amp-coslr-400e_cifar10': dict(
        width=192,
        depths=(2, 4),
        negative_weight=0.02,
        lr=1e-3,
        batch=512,
        warmup=40,
        epochs=400,
        momentum=0.995,
        mask=(38, 6),
        crop_scale=(0.2, 1.0),
        colour=[JITTER, GREYSCALE],
    ),
    'siamese_im_vit-micro-p4_1xb64-coslr-2e_cifar10': dict(
        width=128,
        depths=(1, 2),
        negative_weight=0.12,
        lr=2e-3,
        batch=64,
        warmup=0.2,
        epochs=2,
        momentum=0.98,
        mask=(38, 6),
        crop_scale=(0.4, 1.0),
        colour=[JITTER],
    ),
    'siamese_im_vit-micro-p8_demo': DEMO,
    'siamese_im_vit-micro-p8_2e_continue-demo': dict(
        DEMO, warmup=0.5, epochs=2, momentum=0.99
    ),
}


# It has ViT-B's lambda, from before there was a rule (docs/pretraining.md).
BEFORE_THE_RULE = 'siamese_im_vit-tiny-p4_1xb512-amp-coslr-400e_cifar10'


@pytest.mark.parametrize('file', PRETRAINING, ids=lambda file: file.stem)
def test_the_negative_weight_follows_the_width(file):
    """Lambda times the width of the decoder is that of ViT-B."""
    model = Config.fromfile(file).model
    width = 768 if file.stem == BEFORE_THE_RULE else model.neck.embed_dims
    assert model.head.negative_weight * width == pytest.approx(0.02 * 768)


@pytest.mark.parametrize(
    'name',
    [
        name
        for name in RECIPE
        if '-p16' in name and name.endswith(('in1k', 'folder'))
    ],
)
def test_img_size_sets_every_size(name, tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(
        f'_base_ = {config_path(name + ".py")!r}\nimg_size = 128\n'
    )
    config, plain = find_config(file), load(name)
    grid = (8, 8)
    assert config.model.backbone.img_size == 128
    assert config.model.neck.grid == grid
    views, mask = config.train_dataloader.dataset.pipeline[1:3]
    assert views.size == 128
    assert (mask.grid, mask.num_masked, mask.min_block) == (grid, 38, 6)
    check_settings(config)
    before = copy.deepcopy(config)
    apply_img_size(config)
    assert config._cfg_dict == before._cfg_dict
    config.img_size = 224  # and back; a least block of 6 gives 19, not 16
    apply_img_size(config)
    assert mask.pop('min_block') == 19
    del plain.train_dataloader.dataset.pipeline[2]['min_block']
    assert config.train_dataloader == plain.train_dataloader
    assert config.model == plain.model
    config.img_size = 130
    with pytest.raises(SimimError, match='a multiple'):
        apply_img_size(config)


def test_img_size_and_another_size_are_refused():
    for name, key, value in (
        ('siamese_im_vit-micro-p8_demo', 'model.neck.grid', (3, 3)),
        ('siamese_im_vit-base-p16_knn_in1k', 'model.backbone.img_size', 192),
        ('siamese_im_vit-base-p16_knn_in1k', 'model.backbone.img_size', None),
    ):
        config = load(name)
        config.merge_from_dict({'img_size': 32, key: value})
        with pytest.raises(SimimError, match='img_size'):
            apply_img_size(config)


IN_PIXELS = {
    'siamese_im_vit-small-p16_ft-8xb128-amp-coslr-100e_in1k': (224, 128),
    'siamese_im_vit-tiny-p16_linear-8xb2048-amp-coslr-90e_in1k': (224, 96),
    'siamese_im_vit-base-p16_knn_in1k': (224, 160),
    'siamese_im_vit-base-p16_logistic_in1k-1pct': (224, 64),
    'siamese_im_vit-micro-p8_knn_demo': (64, 32),
    'siamese_im_vit-small-p16_vitdet-16xb4-amp-100e_coco': (1024, 448),
    'siamese_im_vit-base-p16_vitdet-faster-16xb4-amp-100e_coco': (1024, 512),
    'siamese_im_vit-small-p16_upernet-8xb2-amp-160k_ade20k-512x512': (
        *(512, 256),
    ),
    'siamese_im_vit-base-p16_seg-linear-8xb2-amp-40k_ade20k-512x512': (
        *(512, 192),
    ),
}


def numbers(settings) -> list:
    """Return every number of nested settings in order."""
    if isinstance(settings, dict):
        settings = [settings[key] for key in sorted(settings)]
    if isinstance(settings, (list, tuple)):
        return [n for value in settings for n in numbers(value)]
    return [settings] if isinstance(settings, int) else []


@pytest.mark.parametrize('name', IN_PIXELS)
def test_img_size_scales_every_size_of_a_task(name):
    """Sizes keep their share of the image, and nothing else changes."""
    before, size = IN_PIXELS[name]
    plain, config = load(name), load(name)
    config.img_size = size
    apply_img_size(config)
    parts = ('model', 'train_dataloader', 'test_dataloader', 'test_cfg')
    changed = set()
    for part in parts:
        for old, new in zip(
            numbers(plain.get(part)), numbers(config.get(part)), strict=True
        ):
            if old != new:
                assert new == round(old * size / before)
                changed.add(old)
    assert before in changed
    assert {*numbers(config.model.backbone.img_size)} == {size}
    assert before not in numbers(config.test_dataloader.dataset.pipeline)
    check_settings(config)
    again = copy.deepcopy(config)
    apply_img_size(again)
    assert again._cfg_dict == config._cfg_dict


@pytest.mark.parametrize(
    ('row', 'counts'),
    [
        ('a', [192]),
        ('b', [192]),
        ('symmetric', [149]),
        ('target-random', [149, 128]),
        ('mocov3', [192]),
        ('mae', []),
    ],
)
def test_img_size_sets_the_grids_of_variants(row, counts, monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    config = load(f'siamese_im_row-{row}')
    config.img_size = 128
    apply_img_size(config)
    steps = config.train_dataloader.dataset.pipeline
    masks = [step for step in steps if 'num_masked' in step]
    assert [mask.num_masked for mask in masks] == counts
    assert all(mask.grid == (16, 16) for mask in masks)
    assert 128 in numbers(steps[1])
    check_settings(config)


def test_img_size_does_not_set_a_smaller_target_view(monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    config = load('siamese_im_row-target-half')
    config.img_size = 128
    with pytest.raises(SimimError, match=r'img_size=128 .* SmallTargetViews'):
        apply_img_size(config)


def test_another_patch_size_sets_the_grid_of_a_pretraining():
    config = load(
        'siamese_im_vit-small-p16_1xb256-accum4-amp-coslr-400e_folder'
    )
    config.model.backbone.patch_size = 14
    config.img_size = 224
    apply_img_size(config)
    mask = config.train_dataloader.dataset.pipeline[2]
    assert config.model.neck.grid == mask.grid == (16, 16)
    assert mask.num_masked == 154
    check_settings(config)


@pytest.mark.parametrize('name', AT_128)
def test_packaged_sizes_are_those_of_img_size(name):
    plain = load(name.removesuffix('-128x128'))
    plain.img_size = 128
    apply_img_size(plain)
    config = load(name)
    assert config.model == plain.model
    assert config.train_dataloader == plain.train_dataloader


# tests/test_models/test_continue.py builds it.
DINOV2 = (
    'siamese_im_vit-small-p14_1xb256-accum4-amp-coslr-100e_continue-dinov2'
)


@pytest.mark.parametrize('name', SMALL_FIRST)
def test_small_views_first_differ_in_one_hook(name):
    names = name, name.removesuffix('-small-first')
    config, plain = (load(one).to_dict() for one in names)
    *hooks, small = config.pop('custom_hooks')
    assert hooks == plain.pop('custom_hooks')
    assert small == dict(type='SmallViewsFirst')
    assert config == plain


def test_every_pretraining_config_is_listed():
    assert {*RECIPE, *SMALL, DINOV2} == {file.stem for file in PRETRAINING}


@pytest.mark.parametrize('name', SMALL)
def test_own_recipes(name):
    """Check what differs from the paper's recipe; the rest is inherited."""
    config = load(name)
    model, optimizer = config.model, config.optim_wrapper.optimizer
    mask = transform(config, 'BlockwiseMask')
    views = transform(config, 'PairedViews')
    assert SMALL[name] == dict(
        width=model.neck.embed_dims,
        depths=(model.projector.depth, model.neck.depth),
        negative_weight=pytest.approx(model.head.negative_weight),
        lr=optimizer.lr,
        batch=config.train_dataloader.batch_size,
        warmup=config.param_scheduler.warmup,
        epochs=config.train_cfg.max_epochs,
        momentum=config.momentum_hook['base_momentum'],
        mask=(mask['num_masked'], mask['min_block']),
        crop_scale=views['crop_scale'],
        colour=views['online'],
    )
    assert config.momentum_hook in config.custom_hooks
    assert views['target'] == views['online']
    assert config.auto_scale_lr == dict(
        base_batch_size=config.train_dataloader.batch_size, enable=True
    )
    assert (optimizer.type, optimizer.betas) == ('AdamW', (0.9, 0.95))
    assert optimizer.weight_decay == 0.05
    assert config.optim_wrapper.clip_grad == dict(max_norm=1.0)
    assert config.param_scheduler.type == 'WarmupCosineLR'


def test_mmpretrain_knows_the_names():
    """One import adds the configs to MMPretrain's own models."""
    known = set(list_models('siamese_im*'))
    assert known >= {file.stem for file in PRETRAINING}
    model = get_model('siamese_im_vit-micro-p8_demo')
    assert isinstance(model, SiameseIM)
    assert model.backbone.patch_resolution == (6, 6)


def bases(file: Path) -> list[Path]:
    """Return the files that the ``_base_`` of a config names."""
    for line in ast.parse(file.read_text()).body:
        if isinstance(line, ast.Assign) and line.targets[0].id == '_base_':
            named = eval(ast.unparse(line.value))
            names = [named] if isinstance(named, str) else named
            return [file.parent / name for name in names]
    return []


def hops(file: Path) -> int:
    """Return the length of the longest chain of bases below a config."""
    return max((1 + hops(base) for base in bases(file)), default=0)


@pytest.mark.parametrize('scale', ABLATION_SCALES)
def test_chains_of_bases_have_two_hops_at_most(scale, monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', scale)
    assert hops(ROOT / 'siamese_im' / 'siamese_im_vit-micro-p8_demo.py') == 1
    assert {file.name for file in FILES if hops(file) > 2} == set()


def test_configs_change_parts_by_name():
    """A config does not index a list of its base, such as its hooks."""
    index = re.compile(r'(hooks|pipeline|scheduler|colour)\[')
    assert not [f.name for f in FILES if index.search(f.read_text())]


def test_the_micro_encoder_is_defined_once():
    found = [f for f in FILES if 'feedforward_channels' in f.read_text()]
    assert {file.stem for file in found} == {'vit_micro'}
    config = Config.fromfile(ROOT / '_base_' / 'vit_micro.py')
    assert config.micro == MICRO.arch
