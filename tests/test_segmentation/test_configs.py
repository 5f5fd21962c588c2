"""Segmentation configs build and hold the recipe's numbers."""

import os
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor
from mmseg.models.backbones import MAE
from mmseg.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS, TRANSFORMS
from torch import nn

from simim_plugin import environment
from simim_plugin.demo.annotations import SEGMENTATION_CLASSES
from simim_plugin.engine import AutocastOptimWrapper
from simim_plugin.errors import SimimError

ROOT = Path(__file__).resolve().parents[2] / 'configs'
FILES = sorted((ROOT / 'segmentation').glob('*.py'))
BASE = 'siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512'
LARGE = BASE.replace('base', 'large')
TRAINED = [file.stem for file in FILES if 'knn' not in file.stem]


def load(name) -> Config:
    init_default_scope('mmseg')
    return Config.fromfile(ROOT / 'segmentation' / f'{name}.py')


def build(config) -> nn.Module:
    init_default_scope('mmseg')
    return MODELS.build(config.model)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_builds_from_another_folder(file, tmp_path, monkeypatch):
    relative = os.path.relpath(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    config = Config.fromfile(relative)
    assert config.custom_imports.allow_failed_imports is False
    assert config.runner_type == 'SiameseIMRunner'
    assert config.resume is False
    assert config.load_from is None
    if 'upernet' in file.stem:
        config.model.decode_head.channels = 16  # saves seconds
    model = build(config)
    loaders = [config.test_dataloader]
    if 'knn' in file.stem:
        assert not [
            name
            for name, _ in model.named_parameters()
            if not name.startswith('backbone.')
        ]
        loaders.append(config.test_cfg.train_dataloader)
    else:
        loaders += [config.train_dataloader, config.val_dataloader]
    assert config.test_cfg.type in LOOPS
    for loader in loaders:
        assert loader.collate_fn.type == 'pseudo_collate'
        dataset = DATASETS.build(
            dict(loader.dataset, lazy_init=True, pipeline=[])
        )
        assert dataset.reduce_zero_label is True
        assert len(dataset.metainfo['classes']) == model.num_classes
        for cfg in loader.dataset.pipeline:
            TRANSFORMS.build(cfg)
    for cfg in config.custom_hooks:
        HOOKS.build(cfg)
    METRICS.build(config.test_evaluator)
    # Crop, padding, windows and positions have one size.
    size = tuple(config.model.test_cfg.crop_size)
    preprocessor = config.model.data_preprocessor
    assert preprocessor.size == preprocessor.test_cfg['size'] == size
    side = config.model.backbone.img_size
    assert size == (side if isinstance(side, tuple) else (side, side))


def test_a_missing_library(monkeypatch):
    """The config raises the error of the dependency check."""
    needed = ('mmcv', 'absent_library')
    monkeypatch.setitem(environment.TASKS, 'segmentation', needed)
    package = 'simim_plugin.segmentation'
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(SimimError) as caught:
        load(BASE)
    assert str(caught.value) == (
        'Cannot do segmentation: absent_library is not installed; fix it '
        'with `pip install absent_library`; see '
        'docs/troubles.md#wrong-stack.'
    )


@pytest.mark.parametrize('name', TRAINED)
def test_amp_in_the_name_is_amp_in_the_run(name):
    config = load(name)
    assert '-amp-' in name
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    model.backbone.get_layer_depth = lambda name, prefix: (0, 2)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert type(wrapper) is AutocastOptimWrapper
    # Behave as on a GPU.
    wrapper.on_cpu = True
    with wrapper.optim_context(model):
        assert model.backbone(torch.ones(1, 2)).dtype is torch.bfloat16


@pytest.mark.parametrize('name', TRAINED)
def test_schedule_ends_with_the_run(name):
    config = load(name)
    iterations = config.train_cfg.max_iters
    assert f'-{iterations // 1000}k_' in name or f'-{iterations}i_' in name
    warmup, decay = config.param_scheduler
    assert warmup.end == decay.begin
    assert decay.end == iterations
    gpus, batch = name.split('xb')[0][-1], name.split('xb')[1].split('-')[0]
    assert config.train_dataloader.batch_size == int(batch)
    base = int(gpus) * int(batch)
    assert config.auto_scale_lr == dict(base_batch_size=base, enable=True)


@pytest.mark.parametrize(
    ('name', 'width', 'blocks', 'decay', 'drop_path'),
    [
        (BASE, 768, (3, 5, 7, 11), 0.65, 0.1),
        (f'{BASE}-ms', 768, (3, 5, 7, 11), 0.65, 0.1),
        (LARGE, 1024, (7, 11, 15, 23), 0.75, 0.2),
    ],
)
def test_recipe(name, width, blocks, decay, drop_path):
    """MMSegmentation's MAE recipe; ViT-L is ours."""
    config = load(name)
    optim = config.optim_wrapper
    assert optim.optimizer == dict(
        type='AdamW',
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        fused=True,
    )
    assert 'clip_grad' not in optim
    assert optim.paramwise_cfg.layer_decay_rate == decay
    assert config.param_scheduler == [
        dict(
            type='LinearLR',
            start_factor=1e-6,
            by_epoch=False,
            begin=0,
            end=1500,
        ),
        dict(
            type='PolyLR',
            power=1.0,
            eta_min=0.0,
            by_epoch=False,
            begin=1500,
            end=160000,
        ),
    ]
    assert config.sync_bn == 'torch'
    backbone = config.model.backbone
    assert backbone.type == 'SiameseIMSegViT'
    assert backbone.out_indices == blocks
    assert backbone.drop_path_rate == drop_path
    assert (backbone.img_size, backbone.patch_size) == ((512, 512), 16)
    assert config.model.neck.rescales == [4, 2, 1, 0.5]
    head, auxiliary = config.model.decode_head, config.model.auxiliary_head
    assert (head.type, head.channels) == ('UPerHead', width)
    assert head.in_channels == [width] * 4
    assert head.loss_decode.loss_weight == 1
    assert (auxiliary.type, auxiliary.in_index) == ('FCNHead', 2)
    assert (auxiliary.channels, auxiliary.num_convs) == (256, 1)
    assert auxiliary.loss_decode.loss_weight == 0.4
    assert head.num_classes == auxiliary.num_classes == 150
    test = config.model.test_cfg
    assert (test.mode, test.crop_size) == ('slide', (512, 512))
    assert test.stride == (341, 341)


def test_recipe_of_the_data():
    config = load(BASE)
    _, _, resize, crop, flip, colour, _ = config.train_pipeline
    assert (resize.type, resize.scale) == ('RandomResize', (2048, 512))
    assert resize.ratio_range == (0.5, 2.0)
    assert resize.keep_ratio is True
    assert (crop.crop_size, crop.cat_max_ratio) == ((512, 512), 0.75)
    assert flip.prob == 0.5
    assert colour == dict(type='PhotoMetricDistortion')
    kinds = [step.type for step in config.test_pipeline]
    assert kinds.index('Resize') < kinds.index('LoadLabelMap')
    assert config.test_pipeline[1].scale == (2048, 512)
    assert config.test_pipeline[1].keep_ratio is True
    assert config.model.data_preprocessor.bgr_to_rgb is True


def test_lr_and_decay_equal_the_stock_recipe():
    """For every parameter; positions and cls token are decayed."""
    config = load(BASE)
    config.model.decode_head.channels = 16  # saves seconds
    model = build(config)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    names = {param: name for name, param in model.named_parameters()}
    got = {
        names[param]: (group['lr_scale'], group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for param in group['params']
    }
    assert len(wrapper.optimizer.param_groups) == 28
    # The stock constructor looks at the name of the backbone's class.
    model.backbone.__class__ = MAE
    optimizer = dict(config.optim_wrapper.optimizer, fused=False)
    stock = LearningRateDecayOptimizerConstructor(
        dict(type='OptimWrapper', optimizer=optimizer),
        dict(num_layers=12, decay_rate=0.65, decay_type='layer_wise'),
    )(model)
    expected = {
        names[param]: (group['lr_scale'], group['lr'], group['weight_decay'])
        for group in stock.optimizer.param_groups
        for param in group['params']
    }
    assert got.keys() == expected.keys() == set(names.values())
    for name, numbers in expected.items():
        assert got[name] == pytest.approx(numbers, rel=1e-9), name
    for name in ('pos_embed', 'cls_token'):
        assert got[f'backbone.{name}'] == pytest.approx(
            (0.65**13, 1e-4 * 0.65**13, 0.05)
        )
    assert got['backbone.layers.11.attn.gamma1.weight'] == pytest.approx(
        (0.65, 6.5e-5, 0)
    )
    assert got['decode_head.conv_seg.weight'] == (1, 1e-4, 0.05)


@pytest.mark.parametrize('name', [n for n in TRAINED if 'linear' in n])
def test_linear_probe_trains_only_its_head(name):
    config = load(name)
    model = build(config)
    trained = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    assert trained == [
        'decode_head.conv_seg.weight',
        'decode_head.conv_seg.bias',
    ]
    drops = [getattr(part, 'drop_prob', 0) for part in model.modules()]
    assert not any(drops)


@pytest.mark.parametrize(
    'name', [file.stem for file in FILES if 'demo' in file.stem]
)
def test_demo_fits_the_demo(name):
    """The classes of the label maps and the backbone of pretraining."""
    config = load(name)
    classes = config.test_dataloader.dataset.metainfo.classes
    assert tuple(classes) == SEGMENTATION_CLASSES
    (file,) = ROOT.rglob('siamese_im_vit-micro-p8_demo.py')
    wanted = Config.fromfile(file).model.backbone
    backbone = build(config).backbone
    assert backbone.embed_dims == wanted.arch.embed_dims
    assert len(backbone.layers) == wanted.arch.num_layers
    assert backbone.pos_embed.shape[1] == 1 + (64 // wanted.patch_size) ** 2
    inner = backbone.layers[0].ffn.layers[1].in_features
    assert inner == wanted.arch.feedforward_channels
    assert backbone.layers[0].attn.num_heads == wanted.arch.num_heads


def test_six_scales_and_flips():
    (tta,) = (
        step
        for step in load(f'{BASE}-ms').test_dataloader.dataset.pipeline
        if step.type == 'TestTimeAug'
    )
    scales, flips, *_ = tta.transforms
    ratios = [scale.scale[1] / 512 for scale in scales]
    assert ratios == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert all(s.scale[0] == 4 * s.scale[1] and s.keep_ratio for s in scales)
    assert [flip.prob for flip in flips] == [0.0, 1.0]


def test_index_lists_every_config():
    from mmengine.fileio import load as load_file

    index = load_file(ROOT / 'segmentation' / 'metafile.yml')
    listed = {model['Config'] for model in index['Models']}
    assert listed == {f'configs/segmentation/{f.name}' for f in FILES}
    for model in index['Models']:
        assert Path(model['Config']).stem == model['Name']
    readme = (ROOT / 'segmentation' / 'README.md').read_text()
    assert index['Collections'][0]['README'].endswith('segmentation/README.md')
    for file in FILES:
        assert file.name.removeprefix('siamese_im_vit-') in readme, file.name
