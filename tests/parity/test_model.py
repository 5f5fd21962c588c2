"""The whole model against one forward and backward of the released code."""

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from simim_plugin.checkpoint import from_official, to_official
from simim_plugin.geometry import PairGeometry, View
from simim_plugin.models import SiameseIM
from simim_plugin.models.positions import relative_embedding

from . import relative_error

pytestmark = pytest.mark.shared
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}


def tiny_model(info) -> SiameseIM:
    dims = info['decoder_embed_dim']
    heads = info['decoder_num_heads']
    return SiameseIM(
        backbone=dict(
            type='SiameseIMViT',
            arch=dict(
                embed_dims=info['embed_dim'],
                num_layers=info['depth'],
                num_heads=info['num_heads'],
                feedforward_channels=4 * info['embed_dim'],
            ),
            img_size=info['img_size'],
            patch_size=info['patch_size'],
        ),
        projector=dict(
            type='TransformerProjector',
            in_dims=info['embed_dim'],
            embed_dims=dims,
            depth=info['projector_depth'],
            num_heads=heads,
        ),
        neck=dict(
            type='RelativePositionDecoder',
            grid=(info['grid'], info['grid']),
            embed_dims=dims,
            depth=info['predictor_depth'],
            num_heads=heads,
        ),
        head=dict(type='UniGradHead'),
    )


def golden_samples(arrays) -> list[DataSample]:
    """Boxes with the stored deltas, the online view being the unit square."""
    samples = []
    for k, mask in enumerate(arrays['in.mask']):
        top, height, width = (
            arrays[f'in.delta_{name}'][k].astype(float) for name in 'ihw'
        )
        flip = bool(arrays['in.relative_flip'][k])
        left = arrays['in.delta_j'][k].astype(float)
        if flip:
            left = arrays['in.flip_delta_j'][k].astype(float) - width
        sample = DataSample().set_mask(torch.from_numpy(mask).bool())
        sample.geometry = PairGeometry(
            online=View.of((0, 0, 1, 1), False),
            target=View.of((top, left, height, width), flip),
        )
        samples.append(sample)
    return samples


def state(arrays, prefix):
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


@pytest.fixture(params=['model_tiny_seedA', 'model_tiny_seedA_mm0p9'])
def case(request, golden):
    return golden(request.param)


@pytest.fixture(
    params=[
        ('cpu', torch.float64),
        ('cpu', torch.float32),
        pytest.param(('cuda', torch.float64), marks=pytest.mark.gpu),
    ],
    ids=str,
)
def run(request, case):
    """Model after one forward and backward, in one precision."""
    arrays, info = case
    device, dtype = request.param
    model = tiny_model(info)
    weights = from_official(state(arrays, 'state.'))
    weights.pop('target.mask_token')  # nothing reads it
    model.load_state_dict(weights)
    model.to(device, dtype).train()
    if info['update_mm']:
        model.update_target(info['mm'])
    views = [
        torch.from_numpy(arrays[f'in.x{k}']).to(device, dtype) for k in (1, 2)
    ]
    samples = golden_samples(arrays)
    outputs = model.loss(views, samples)
    outputs['loss'].backward()
    return model, views, samples, outputs, dtype


def expected(arrays, name, dtype):
    return arrays[name if dtype is torch.float64 else f'f32.{name}']


def test_relative_embedding(case):
    arrays, info = case
    geometry = PairGeometry.stack([s.geometry for s in golden_samples(arrays)])
    grid = (info['grid'], info['grid'])
    dim = info['decoder_embed_dim']
    ours = relative_embedding(geometry, grid, grid, dim, torch.float64)
    assert relative_error(ours, arrays['mid.rel_embed']) < 1e-9


def test_loss_and_its_terms(case, run):
    _, _, _, outputs, dtype = run
    assert set(outputs) == {'loss', 'positive_term', 'negative_term'}
    for ours, theirs in (
        ('loss', 'loss'),
        ('positive_term', 'pos_term'),
        ('negative_term', 'neg_term'),
    ):
        value = expected(case[0], f'out.{theirs}', dtype)
        error = relative_error(outputs[ours].detach(), value)
        assert error < BOUNDS[dtype], ours


def test_prediction_and_target(case, run):
    model, (online_view, target_view), samples, _, dtype = run
    with torch.no_grad():
        visible, geometry = model._collate(samples)
        online = model.projector(model.backbone(online_view, visible))
        prediction = model.neck(online, visible, geometry)
        target = model.encode_target(target_view)
    for name, value in (('pred', prediction), ('target', target)):
        reference = expected(case[0], f'out.{name}', dtype)
        assert relative_error(value, reference) < BOUNDS[dtype], name


def test_every_gradient(case, run):
    model, _, _, _, dtype = run
    gradients = {
        name: p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    stored = state(case[0], 'grad.')
    assert {*gradients} == {*from_official(stored)}
    gradients = to_official(gradients)
    for name in stored:
        value = expected(case[0], f'grad.{name}', dtype)
        error = relative_error(gradients[name], value)
        # A gradient that is zero up to rounding has no relative error.
        scale = np.linalg.norm(stored[name]) / stored[name].numel() ** 0.5
        if scale > 1e-12:
            bound = BOUNDS[dtype]
            assert error < bound, name


def test_what_the_step_leaves_behind(case, run):
    model, _, _, _, dtype = run
    after = {
        name: value
        for name, value in state(case[0], 'after.').items()
        if name != 'mm_mask_token'  # nothing reads it
    }
    ours = to_official(model.state_dict())
    assert any('running_var' in name for name in after)
    for name, value in after.items():
        error = relative_error(ours[name].double(), value.double())
        assert error < BOUNDS[dtype], name
    assert ('mm_cls_token' in after) == case[1]['update_mm']
