"""The UniGrad loss, the schedules, the parameter groups and the parameter
names agree with the released code."""

import re

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from simim_plugin.checkpoint import from_official, to_official
from simim_plugin.engine import LayerDecayConstructor, WarmupCosineLR
from simim_plugin.engine.schedule import cosine_momentum
from simim_plugin.models import UniGradHead

from . import relative_error

UNIGRAD = [
    pytest.param(f'unigrad_{size}_seed{seed}', marks=marks)
    for size, marks in (('b3n5d8', ()), ('b4n16d32', pytest.mark.shared))
    for seed in range(3)
]
LR, EPOCHS, STEPS, WARMUP, MOMENTUM = 1e-3, 10, 5, 2, 0.995


@pytest.mark.parametrize('name', UNIGRAD)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_unigrad(reference, name, dtype):
    arrays = reference(name)
    bound = 1e-9 if dtype is torch.float64 else 1e-5
    suffix = '' if dtype is torch.float64 else '_f32'
    prediction = torch.from_numpy(arrays['pred']).to(dtype)
    prediction.requires_grad_()
    target = torch.from_numpy(arrays['target']).to(dtype)
    head = UniGradHead(float(arrays['neg_weight']))
    outputs = head.loss(prediction, target)
    outputs['loss'].backward()
    # The released code logs its terms before their factors in the loss.
    dim, weight = prediction.shape[-1], float(arrays['neg_weight'])
    for ours, theirs in (
        (outputs['positive_term'], arrays['pos_term'] / dim),
        (outputs['negative_term'], arrays['neg_term'] * weight / dim),
        (outputs['loss'].detach(), arrays[f'loss{suffix}']),
        (prediction.grad, arrays[f'grad_pred{suffix}']),
    ):
        assert relative_error(ours, theirs) < bound


def test_learning_rate(reference):
    arrays = reference('schedule_e10_i5_w2')
    for key, floor, scale in (
        ('lr', 0.0, 1.0),
        ('lr_minlr1e6', 1e-6, 1.0),
        ('lr_minlr1e6_scaled', 1e-6, 0.65**5),
    ):
        parameter = nn.Parameter(torch.zeros(1))
        group = dict(params=[parameter], lr=LR * scale, lr_scale=scale)
        optimizer = torch.optim.SGD([group])
        scheduler = WarmupCosineLR.build_iter_from_epoch(
            optimizer,
            warmup=WARMUP,
            end=EPOCHS,
            epoch_length=STEPS,
            eta_min=floor,
        )
        rates = []
        for _ in arrays[key]:
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            scheduler.step()
        assert rates[0] == 0
        assert relative_error(rates, arrays[key]) < 1e-12, key


def test_momentum(reference):
    arrays = reference('schedule_e10_i5_w2')
    steps = EPOCHS * STEPS
    momentum = [cosine_momentum(MOMENTUM, t / steps) for t in range(steps)]
    assert relative_error(momentum, arrays['momentum_cosine']) < 1e-12


@pytest.fixture(scope='module')
def vit_base():
    """Build the recipe's model."""
    from mmengine.config import Config

    from simim_plugin import config_path

    config = Config.fromfile(
        config_path('siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k.py')
    )
    init_default_scope('mmpretrain')
    return MODELS.build(config.model), config


@pytest.mark.shared
def test_pretraining_groups(golden, vit_base):
    _, info = golden('official_base_keys')
    model, config = vit_base
    constructor = LayerDecayConstructor(
        dict(optimizer=config.optim_wrapper.optimizer),
        config.optim_wrapper.paramwise_cfg,
    )
    groups = []
    constructor.add_params(groups, model)
    assert len(groups) == 2
    decays = {
        id(p): group['weight_decay']
        for group in groups
        for p in group['params']
    }
    ours = to_official(
        {name: decays.get(id(p)) for name, p in model.named_parameters()}
    )
    for key in info['keys']:
        if key['kind'] == 'parameter' and key['name'] != 'mm_mask_token':
            name = key['name']
            assert ours[name] == key['pretrain_weight_decay'], name


@pytest.mark.shared
def test_fine_tuning_groups(golden):
    _, info = golden('layer_decay_vitb_0p65')
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='SiameseIMViT',
                arch='base',
                out_type='avg_featmap',
                train_patch_embed=True,
            ),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=768),
        )
    )
    constructor = LayerDecayConstructor(
        dict(optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05)),
        dict(
            layer_decay_rate=0.65,
            flat_decay_mult=0.0,
            custom_keys={'.cls_token': dict(decay_mult=0.0)},
        ),
    )
    groups = []
    constructor.add_params(groups, model)
    assert len(groups) == info['groups']
    settings = {
        id(p): (group['lr_scale'], group['weight_decay'])
        for group in groups
        for p in group['params']
    }
    found = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            assert name == 'backbone.pos_embed'
            continue
        name = re.sub(r'^backbone\.ln2\.', 'fc_norm.', name)
        name = re.sub(r'^head\.fc\.', 'head.', name)
        if name.startswith('backbone'):
            (name,) = to_official({name: p})
        found[name] = settings[id(p)]
    assert found.keys() == info['params'].keys()
    for name, (lr_scale, decay) in found.items():
        expected = info['params'][name]
        assert lr_scale == pytest.approx(expected['lr_scale'], rel=1e-12)
        assert decay == expected['weight_decay'], name


@pytest.mark.shared
def test_key_map_covers_every_name_in_both_directions(golden, vit_base):
    _, info = golden('official_base_keys')
    generator = torch.Generator().manual_seed(0)
    official = {
        key['name']: torch.randint(
            0, 99, key['shape'] or (), generator=generator
        )
        for key in info['keys']
    }
    assert len(official) == info['n_keys'] == 450
    ours = from_official(official)
    model, _ = vit_base
    state = model.state_dict()
    assert ours.keys() - state.keys() == {'target.mask_token'}
    assert not state.keys() - ours.keys()
    for name, value in state.items():
        assert ours[name].shape == value.shape, name
    back = to_official(ours)
    assert back.keys() == official.keys()
    for name, value in official.items():
        assert torch.equal(back[name], value), name


@pytest.mark.shared
def test_sizes(golden, vit_base):
    _, info = golden('official_base_keys')
    model, _ = vit_base
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == info['n_params_trainable']
