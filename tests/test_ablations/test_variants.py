"""Variants of views and targets: positions, losses, gradients."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmpretrain.models import resize_pos_embed
from mmpretrain.registry import MODELS, TRANSFORMS

import simim_plugin.ablations  # noqa: F401  # registers the variants
from simim_plugin.benchmarks import training
from simim_plugin.benchmarks.timing import count_flops
from simim_plugin.benchmarks.training import measure_methods, pretraining_step
from simim_plugin.errors import SimimError
from simim_plugin.models.positions import (
    absolute_table,
    relative_embedding,
    scaled_table,
)

from ..test_models.helpers import small_batch, small_config
from . import load


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def build(kind, neck=None, backbone=None, **kwargs):
    """Build a small model; all kinds have the same weights."""
    config = small_config(**kwargs) | kind
    config['neck'].update(neck or {})
    config['backbone'].update(backbone or {})
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model


def step(model, inputs, samples):
    """Return the loss and the gradient of every parameter."""
    loss = model.loss(inputs, samples)['loss']
    return loss, gradients(model, loss)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        n: p.grad.clone()
        for n, p in model.named_parameters()
        if p.grad is not None
    }


def same(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=0)
    assert ours[1].keys() == theirs[1].keys()
    for name, value in theirs[1].items():
        torch.testing.assert_close(
            ours[1][name], value, rtol=1e-4, atol=1e-6, msg=name
        )


@pytest.mark.parametrize('name', ['a', 'b'])
def test_the_same_view_has_the_absolute_positions(name, monkeypatch):
    """The scale channels encode a ratio of 1."""
    config = load(name, 'demo', monkeypatch)
    model = MODELS.build(config.model)
    pipeline = config.train_dataloader.dataset.pipeline[1:]
    transforms = [TRANSFORMS.build(t) for t in pipeline]
    draw = np.random.default_rng(0)
    inputs, samples = [], []
    for _ in range(4):
        results = dict(img=draw.integers(0, 256, (90, 120, 3), np.uint8))
        for transform in transforms:
            results = transform(results)
        inputs.append(results['inputs'])
        samples.append(results['data_samples'])
    views = [torch.stack(view).float() for view in zip(*inputs, strict=True)]
    assert torch.equal(*views)
    model.loss(views, samples)
    neck = model.neck
    dims = neck.embed_dims
    table = neck.pos_embed[:, 1:].expand(4, -1, -1)
    one = torch.tensor([0.0, 1, 0, 1]).repeat_interleave(dims // 4)
    relative = torch.cat([table, one.expand(4, table.shape[1], -1)], dim=-1)
    expected = neck.mask_token + neck.relative_map(relative)
    ours = neck.mask_tokens(model._collate(samples)[1])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def by_hand(sample, row, col, target_grid, online_grid, dims):
    """Compute one patch's embedding through image pixels."""
    online, target = sample.geometry.online, sample.geometry.target
    top, left, height, width = target.box.tolist()
    y = top + height * (row + 0.5) / target_grid[0]
    share = (col + 0.5) / target_grid[1]
    x = left + width * (1 - share if target.flip else share)
    o_top, o_left, o_height, o_width = online.box.tolist()
    v, u = (y - o_top) / o_height, (x - o_left) / o_width
    u = 1 - u if online.flip else u
    values = (
        v * online_grid[0] - 0.5,
        u * online_grid[1] - 0.5,
        10 * math.log(height / o_height),
        10 * math.log(width / o_width),
    )
    quarter = dims // 4
    channels = []
    for value in values:
        angles = [value / 10000 ** (k / quarter) for k in range(quarter)]
        channels += [math.sin(a) for a in angles]
        channels += [math.cos(a) for a in angles]
    return torch.tensor(channels)


def with_subset(samples, count, seed=2):
    generator = torch.Generator().manual_seed(seed)
    for sample in samples:
        order = torch.randperm(len(sample.mask), generator=generator)
        sample.target_tokens = (order < count).numpy()  # as a pipeline does
    return samples


@pytest.mark.parametrize('see_whole', [True, False])
def test_a_subset_of_target_tokens_has_their_loss(see_whole):
    kind = dict(type='PartialTargetSiameseIM', see_whole=see_whole)
    model = build(kind)
    inputs, samples = small_batch()
    with_subset(samples, 5)
    ours = step(model, inputs, samples)

    model = build(kind)
    visible, _ = model._collate(samples)
    online = model.projector(model.backbone(inputs[0], visible))
    chosen = [np.flatnonzero(s.target_tokens).tolist() for s in samples]
    positions = torch.stack(
        [
            torch.stack(
                [
                    by_hand(sample, i // 4, i % 4, (4, 4), (4, 4), 16)
                    for i in part
                ]
            )
            for sample, part in zip(samples, chosen, strict=True)
        ]
    )  # (B, 5, 2 D)
    neck = model.neck
    table = neck.pos_embed[0, 1:]
    seen = torch.stack([table[part] for part in visible])
    tokens = torch.cat(
        [
            online[:, :1],
            online[:, 1:] + seen,
            neck.mask_token + neck.relative_map(positions),
        ],
        dim=1,
    )
    for layer in neck.layers:
        tokens = layer(tokens)
    p = neck.predict(tokens[:, -5:]).flatten(0, 1)  # (M, D)
    with torch.no_grad():
        if see_whole:
            whole = model.encode_target(inputs[1])
            parts = [t[part] for t, part in zip(whole, chosen, strict=True)]
        else:
            few = model.target['backbone'](inputs[1], torch.tensor(chosen))
            parts = [*model.target['projector'](few)[:, 1:]]
        t = F.layer_norm(torch.cat(parts), (16,))
    similarity = p @ t.T  # M x M
    loss = (p - t).square().sum(1) + 0.02 * similarity.square().mean(1)
    loss = loss.mean() / 16
    same(ours, (loss, gradients(model, loss)))


@pytest.mark.parametrize('see_whole', [True, False])
def test_all_target_tokens_are_the_method(see_whole):
    inputs, samples = small_batch()
    with_subset(samples, 16)
    kind = dict(type='PartialTargetSiameseIM', see_whole=see_whole)
    same(
        step(build(kind), inputs, samples),
        step(build(dict(type='SiameseIM')), inputs, samples),
    )


def test_target_branch_on_a_subset_sees_no_other_token():
    (view, other), samples = small_batch()
    with_subset(samples, 5)
    unseen = torch.stack([~torch.tensor(s.target_tokens) for s in samples])
    pixels = unseen.view(-1, 1, 4, 4).repeat_interleave(4, 2)
    pixels = pixels.repeat_interleave(4, 3)
    changed = torch.where(pixels, other + 1, other)
    for see_whole in (False, True):
        kind = dict(type='PartialTargetSiameseIM', see_whole=see_whole)
        model = build(kind).eval()
        before = model.loss([view, other], samples)['loss']
        after = model.loss([view, changed], samples)['loss']
        assert (before == after) != see_whole


def test_subsets_of_unequal_size_are_refused():
    inputs, samples = small_batch()
    with_subset(samples, 5)
    samples[0].target_tokens[:] = True
    model = build(dict(type='PartialTargetSiameseIM'))
    with pytest.raises(SimimError, match='`num_masked`'):
        model.loss(inputs, samples)


@pytest.mark.parametrize('target_grid', [(2, 2), (3, 3), (1, 3), (4, 4)])
def test_positions_of_a_smaller_target_match_its_pixels(target_grid):
    _, samples = small_batch()
    model = build(
        dict(type='SmallTargetSiameseIM'),
        neck=dict(target_grid=target_grid),
    )
    visible, geometry = model._collate(samples)
    online = torch.randn(4, 1 + visible.shape[1], 16)
    prediction = model.neck(online, visible, geometry)
    rows, cols = target_grid
    assert prediction.shape == (4, rows * cols, 16)
    neck = model.neck
    for sample, ours in zip(samples, neck.mask_tokens(geometry), strict=True):
        for i, channels in enumerate(ours):
            expected = by_hand(
                sample, i // cols, i % cols, target_grid, (4, 4), 16
            )
            expected = neck.mask_token[0, 0] + neck.relative_map(expected)
            torch.testing.assert_close(channels, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize('target_grid', [(7, 7), (10, 10), (6, 9)])
def test_a_point_has_the_same_position_in_both_branches(target_grid):
    """The target's table is the relative embedding of the same view."""
    _, (sample, *_) = small_batch()
    geometry = sample.geometry
    geometry = type(geometry)(geometry.online, geometry.online)
    table = scaled_table(target_grid, (14, 14), 16)[0]
    relative = relative_embedding(
        geometry, target_grid, (14, 14), 16, torch.float64
    )
    torch.testing.assert_close(table, relative[:, :16], rtol=0, atol=1e-12)
    # MMPretrain would interpolate the whole table to about the same.
    whole = absolute_table((14, 14), 16).float()
    near = resize_pos_embed(whole, (14, 14), target_grid)[0, 1:].double()
    inner = torch.zeros(target_grid, dtype=torch.bool)
    inner[2:-2, 2:-2] = True
    error = (near - table)[inner.flatten()].abs().max()
    assert 0 < error < 0.06


def test_a_smaller_target_is_encoded_with_these_positions():
    inputs, (sample, *_) = small_batch()
    view = F.avg_pool2d(inputs[1], 2)
    model = build(
        dict(type='SmallTargetSiameseIM'),
        neck=dict(target_grid=(2, 2)),
    )
    geometry = type(sample.geometry)(*[sample.geometry.target] * 2)
    places = relative_embedding(geometry, (2, 2), (4, 4), 24)[:, :24]
    vit, projector = model.target['backbone'], model.target['projector']
    patches = vit.patch_embed.projection(view).flatten(2).mT + places
    tokens = torch.cat([vit.cls_token.expand(4, -1, -1), patches], dim=1)
    for layer in vit.layers:
        tokens = layer(tokens)
    expected = projector(tokens)[:, 1:]
    torch.testing.assert_close(model.encode_target(view), expected)


@pytest.mark.parametrize(
    'backbone',
    [
        {},
        dict(rotary='dinov3'),
        dict(rotary='eva02', absolute_positions=False),
        dict(rotary='capi', num_registers=4, absolute_positions=False),
        dict(absolute_positions=False),
    ],
    ids=str,
)
def test_a_target_of_the_same_grid_is_the_method(backbone):
    inputs, samples = small_batch()
    neck = dict(target_grid=(4, 4))
    small = build(dict(type='SmallTargetSiameseIM'), neck, backbone)
    method = build(dict(type='SiameseIM'), backbone=backbone)
    same(step(small, inputs, samples), step(method, inputs, samples))


def test_a_point_of_a_smaller_target_has_its_rotary_position():
    """Attention that sees rotary positions alone tells halves apart."""
    backbone = dict(rotary='dinov3', absolute_positions=False)
    neck = dict(target_grid=(2, 2))
    model = build(dict(type='SmallTargetSiameseIM'), neck, backbone).eval()
    view = F.avg_pool2d(small_batch()[0][1], 2)
    (tokens,) = model.target['backbone'](view)
    expected = model.target['projector'](tokens)[:, 1:]
    torch.testing.assert_close(model.encode_target(view), expected)


@pytest.mark.parametrize('pretrained', [False, True])
def test_a_target_of_unknown_positions_is_refused(pretrained, tmp_path):
    """A relative bias has one grid, and a learned table no formula."""
    neck = dict(target_grid=(2, 2))
    kind, backbone = dict(type='SmallTargetSiameseIM'), {}
    if pretrained:
        other = build(dict(type='SiameseIM'))
        state = other.state_dict()
        state['backbone.pos_embed'] += 1
        kind['pretrained'] = str(tmp_path / 'other.pth')
        torch.save(dict(state_dict=state), kind['pretrained'])
    else:
        backbone['relative_bias'] = True
    words = 'read a table of positions' if pretrained else 'relative_bias'
    with pytest.raises(SimimError, match=words):
        build(kind, neck, backbone)


def test_a_smaller_target_trains():
    inputs, samples = small_batch()
    inputs[1] = F.avg_pool2d(inputs[1], 2)
    neck = dict(target_grid=(2, 2))
    model = build(dict(type='SmallTargetSiameseIM'), neck=neck)
    _, grads = step(model, inputs, samples)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert grads.keys() == trained
    # A checkpoint is the method's.
    method = build(dict(type='SiameseIM'))
    assert model.state_dict().keys() == method.state_dict().keys()


def test_symmetric_is_the_mean_of_both_directions():
    inputs, samples = small_batch()
    ours = step(build(dict(type='SymmetricSiameseIM')), inputs, samples)
    model = build(dict(type='SiameseIM'))
    there, one = step(model, inputs, samples)
    for sample in samples:
        sample.geometry = sample.geometry.inverse()
    back, two = step(model, inputs[::-1], samples)
    mean = {name: (one[name] + two[name]) / 2 for name in one}
    same(ours, ((there + back) / 2, mean))
    assert there != back
    swapped = step(
        build(dict(type='SymmetricSiameseIM')), inputs[::-1], samples
    )
    same(ours, swapped)


def moco(**backbone):
    mlp = dict(
        hid_channels=20,
        out_channels=16,
        with_avg_pool=False,
        norm_cfg=dict(type='BN1d'),
    )
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='MaskedMoCoV3',
            backbone=small_config()['backbone'] | backbone,
            neck=dict(mlp, type='MeanTokenNeck', in_channels=24),
            head=dict(
                type='PredictorHead',
                predictor=dict(mlp, type='NonLinearNeck', in_channels=16),
                loss=dict(type='GlobalHead', head=dict(type='UniGradHead')),
            ),
        )
    )
    model.init_weights()
    return model


@pytest.mark.parametrize(
    ('backbone', 'extra'),
    [
        ({}, 1),
        (dict(num_registers=4), 5),
        (dict(with_cls_token=False), 0),
    ],
    ids=str,
)
def test_masked_moco_is_its_direct_computation(backbone, extra):
    model = moco(**backbone)
    inputs, samples = small_batch()
    ours = model.loss(inputs, samples)
    hidden = torch.stack([s.mask for s in samples])
    visible = (~hidden).nonzero()[:, 1].view(4, -1)
    losses = []
    for query, key in (inputs, inputs[::-1]):
        q = model.backbone(query, visible)[:, extra:].mean(1)
        (q,) = super(type(model.neck), model.neck).forward((q,))
        (p,) = model.head.predictor([q])
        with torch.no_grad():
            encoder, neck = model.momentum_encoder.module
            (k,) = encoder(key)
            (k,) = super(type(neck), neck).forward((k[:, extra:].mean(1),))
            t = F.layer_norm(k, (16,))
        positive = (p - t).square().sum(1)
        negative = (p @ t.T).square().mean(1)
        losses.append((positive + 0.02 * negative).mean() / 16)
    torch.testing.assert_close(ours['loss'], sum(losses) / 2)
    swapped = model.loss(inputs[::-1], samples)['loss']
    torch.testing.assert_close(ours['loss'], swapped)


def test_only_the_hook_moves_the_keys_of_masked_moco():
    model = moco()
    inputs, samples = small_batch()
    (keys,) = model.momentum_encoder(inputs[0])
    (queries,) = model.neck(model.backbone(inputs[0]))
    assert torch.equal(keys, queries)
    with torch.no_grad():
        model.neck.fc0.weight += 1
    weight = model.momentum_encoder.module[1].fc0.weight
    before = weight.clone()
    model.loss(inputs, samples)['loss'].backward()
    assert torch.equal(weight, before)
    assert weight.grad is None
    model.update_target(0.75)
    torch.testing.assert_close(weight, before + 0.25)


@pytest.mark.parametrize('scale', ['cifar10-micro', 'demo'])
def test_small_views_first_cost_less_than_half(scale, monkeypatch):
    """In operations, forward and backward, of one image."""
    monkeypatch.setattr(training, 'peak_megabytes', lambda *_: 1.0)
    files = {n: f'siamese_im_row-{n}.py' for n in ('i', 'small-first')}
    costs = measure_methods(files, scale, batch=2, rounds=1)
    share = costs['small-first: GFLOPs an image, / (i)']
    assert 0.4 < share < (0.52 if scale == 'demo' else 0.5)
    step = pretraining_step(files['small-first'], 2, False, small=True)
    small = count_flops(step) / 2e9 / costs['i: GFLOPs an image']
    assert share == pytest.approx(1 / 3 + small * 2 / 3)
    assert 0.2 < small < 0.28
