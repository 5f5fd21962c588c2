"""Settings that hold or slow an encoder have their effect in each task."""

import copy

import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.registry import DefaultScope
from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor
from mmpretrain.registry import MODELS
from mmseg.registry import MODELS as SEGMENTORS
from torch import nn

import simim_plugin.detection
import simim_plugin.segmentation  # noqa: F401
from simim_plugin.engine import LayerDecayConstructor
from simim_plugin.errors import SimimError

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
BACKBONES = {
    'mmpretrain': (
        MODELS,
        dict(type='SiameseIMViT', img_size=16, patch_size=4, arch=ARCH)
        | dict(train_patch_embed=True, final_norm=True),
    ),
    'mmdet': (
        DETECTORS,
        dict(type='SiameseIMViTDet', img_size=16, patch_size=4)
        | dict(arch=ARCH | dict(global_attn_indexes=[2]))
        | dict(pretrain_img_size=16, window_size=2),
    ),
    'mmseg': (
        SEGMENTORS,
        dict(type='SiameseIMSegViT', img_size=16, patch_size=4, arch=ARCH)
        | dict(out_indices=[2]),
    ),
}


def build(scope, **options):
    registry, settings = BACKBONES[scope]
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        backbone = registry.build({**settings, **options})
    backbone.init_weights()
    return backbone.train()


@pytest.mark.parametrize('scope', BACKBONES)
@pytest.mark.parametrize('stages', [-1, 0, 1, 3])
def test_frozen_stages_are_held(scope, stages):
    backbone = build(scope, frozen_stages=stages, drop_path_rate=0.5)
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.AdamW(
        [p for p in backbone.parameters() if p.requires_grad]
        or [torch.ones(1)],
        lr=0.1,
    )
    images = torch.randn(8, 3, 16, 16)
    outputs = [backbone(images)[-1] for _ in range(2)]
    if outputs[0].requires_grad:
        outputs[0].square().sum().backward()
        optimizer.step()
    held = ['patch_embed', 'cls_token', 'pos_embed', 'pre_norm']
    held += [f'layers.{k}.' for k in range(max(stages, 0))]
    for name, value in backbone.state_dict().items():
        same = torch.equal(value, before[name])
        if stages >= 0 and name.startswith(tuple(held)):
            assert same, name
        elif name.startswith('layers') and name.endswith('qkv.weight'):
            assert not same, name
    # Blocks that drop paths give another output each time.
    assert torch.equal(*outputs) == (stages == 3)
    backbone.eval()
    backbone.train()
    if stages == 3:
        assert not any(layer.training for layer in backbone.layers)


@pytest.mark.parametrize('scope', BACKBONES)
def test_all_blocks_hold_the_final_norm_too(scope):
    backbone = build(scope, frozen_stages=3)
    trained = [n for n, p in backbone.named_parameters() if p.requires_grad]
    assert trained == []


@pytest.mark.parametrize('scope', BACKBONES)
@pytest.mark.parametrize('stages', [-2, 4])
def test_more_stages_than_blocks(scope, stages):
    with pytest.raises(SimimError, match=rf'{stages}, and .* 3 blocks'):
        build(scope, frozen_stages=stages)


class Task(torch.nn.Module):
    """A model of a backbone and a head, of any library."""

    def __init__(self, scope):
        super().__init__()
        self.backbone = build(scope)
        self.head = torch.nn.Linear(16, 2)


def optimizer_of(model, optimizer, **paramwise):
    constructor = LayerDecayConstructor(
        dict(type='OptimWrapper', optimizer=dict(optimizer)), paramwise
    )
    assert isinstance(constructor, LearningRateDecayOptimWrapperConstructor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return constructor(model).optimizer


OPTIMIZERS = {
    'AdamW': dict(type='AdamW', lr=0.1, weight_decay=0.5),
    'SGD without decay': dict(type='SGD', lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize('scope', BACKBONES)
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('factor', [0.0, 0.1])
def test_lr_mult_of_a_custom_key(scope, optimizer, factor):
    settings = OPTIMIZERS[optimizer]
    model = Task(scope)
    rates = []
    for keys in ({}, {'backbone': dict(lr_mult=factor)}):
        built = optimizer_of(
            model, settings, layer_decay_rate=0.5, custom_keys=keys
        )
        rates.append(
            {
                id(p): (group['lr'], group['lr_scale'])
                for group in built.param_groups
                for p in group['params']
            }
        )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain, changed = (rate[id(parameter)] for rate in rates)
            share = factor if name.startswith('backbone') else 1.0
            assert changed == pytest.approx([x * share for x in plain]), name
    before = copy.deepcopy(model.state_dict())
    features = model.backbone(torch.randn(2, 3, 16, 16))[-1]
    loss = features.square().sum() + model.head.weight.square().sum()
    loss.backward()
    built.step()
    for name, value in model.state_dict().items():
        if name.startswith('backbone') and factor == 0:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(model.head.weight, before['head.weight'])


def test_the_longest_key_holds():
    keys = {
        'backbone': dict(lr_mult=0.5),
        'backbone.layers.0': dict(lr_mult=0.0),
    }
    model = Task('mmpretrain')
    built = optimizer_of(model, OPTIMIZERS['AdamW'], custom_keys=keys)
    rates = {
        id(p): group['lr']
        for group in built.param_groups
        for p in group['params']
    }
    first, second = (model.backbone.layers[k].attn.qkv.weight for k in (0, 1))
    assert (rates[id(first)], rates[id(second)]) == (0.0, 0.05)


def test_keys_of_one_parameter_add_up():
    """A key changes what it names, and no other key or rule of decay."""
    keys = {
        '.cls_token': dict(decay_mult=0.0),
        'backbone': dict(lr_mult=0.1),
        '.ln': dict(decay_mult=3.0),
    }
    model = Task('mmpretrain')
    built = optimizer_of(
        model,
        OPTIMIZERS['AdamW'],
        norm_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=keys,
    )
    groups = {id(p): g for g in built.param_groups for p in g['params']}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = groups[id(parameter)]
        decay = 0.0 if parameter.ndim == 1 else 0.5
        decay = 0.0 if name.endswith('.cls_token') else decay
        decay = 1.5 if '.ln' in name else decay
        rate = 0.01 if name.startswith('backbone') else 0.1
        assert group['weight_decay'] == decay, name
        assert group['lr'] == pytest.approx(rate), name


@pytest.mark.parametrize('name', ['bias_lr_mult', 'dwconv_decay_mult', 'x'])
def test_settings_of_another_constructor(name):
    with pytest.raises(SimimError, match=f'{name}, which LayerDecay'):
        optimizer_of(Task('mmpretrain'), OPTIMIZERS['AdamW'], **{name: 0.0})


def test_optimizers_of_any_form():
    """A class, a list in a key, and one without weight decay."""
    keys = {'head': dict(betas=[0.8, 0.9])}
    settings = dict(type=torch.optim.AdamW, lr=0.1)
    model = Task('mmpretrain')
    built = optimizer_of(
        model, settings, layer_decay_rate=0.5, custom_keys=keys
    )
    betas = {
        id(p): group['betas']
        for group in built.param_groups
        for p in group['params']
    }
    assert betas[id(model.head.weight)] == (0.8, 0.9)
    with pytest.raises(SimimError, match='Rprop does not have'):
        optimizer_of(model, dict(type='Rprop', lr=0.1), layer_decay_rate=0.5)


class WithoutDepths(nn.Module):
    """A model whose backbone does not number its layers."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 2)


@pytest.mark.parametrize('of_mmpretrain', [False, True])
def test_only_a_layer_decay_needs_depths(of_mmpretrain):
    model = WithoutDepths()
    if of_mmpretrain:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(
                dict(type='ImageClassifier', backbone=dict(type='LeNet5'))
            )
    built = optimizer_of(model, OPTIMIZERS['AdamW'], flat_decay_mult=0.0)
    rates = {(g['lr'], g['weight_decay']) for g in built.param_groups}
    assert rates == {(0.1, 0.5), (0.1, 0.0)}
    with pytest.raises(SimimError, match=r'layer_decay_rate needs .* of L'):
        optimizer_of(model, OPTIMIZERS['AdamW'], layer_decay_rate=0.5)
