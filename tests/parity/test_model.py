"""One forward and backward of the whole model agree with the released code."""

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from simim_plugin.checkpoint import from_official, to_official
from simim_plugin.geometry import PairGeometry, View
from simim_plugin.models import SiameseIM
from simim_plugin.models.positions import relative_embedding

from . import relative_error

BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}
GRID = (4, 4)
DIMS = 32  # of projector and decoder


def tiny_model() -> SiameseIM:
    return SiameseIM(
        backbone=dict(
            type='SiameseIMViT',
            arch=dict(
                embed_dims=48,
                num_layers=2,
                num_heads=3,
                feedforward_channels=192,
            ),
            img_size=32,
            patch_size=8,
        ),
        projector=dict(
            type='TransformerProjector',
            in_dims=48,
            embed_dims=DIMS,
            depth=2,
            num_heads=4,
        ),
        neck=dict(
            type='RelativePositionDecoder',
            grid=GRID,
            embed_dims=DIMS,
            depth=2,
            num_heads=4,
        ),
        head=dict(type='UniGradHead'),
    )


def reference_samples(arrays) -> list[DataSample]:
    """Make boxes with the stored deltas; the online view is a unit square."""
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


@pytest.fixture(
    params=[
        'model_tiny',
        pytest.param('model_tiny_seedA', marks=pytest.mark.shared),
        pytest.param('model_tiny_seedA_mm0p9', marks=pytest.mark.shared),
    ]
)
def case(request, reference):
    """Weights, inputs and reference results of one step."""
    arrays = reference(request.param)
    if request.param == 'model_tiny':
        arrays |= reference('model_tiny_weights')
    return arrays


@pytest.fixture(
    params=[
        ('cpu', torch.float64),
        ('cpu', torch.float32),
        pytest.param(('cuda', torch.float64), marks=pytest.mark.gpu),
    ],
    ids=str,
)
def run(request, case):
    """Run one forward and backward in one precision."""
    device, dtype = request.param
    model = tiny_model()
    weights = from_official(state(case, 'state.'))
    weights.pop('target.mask_token')  # nothing reads it
    model.load_state_dict(weights)
    model.to(device, dtype).train()
    if case['in.update_mm']:
        model.update_target(float(case['in.mm']))
    views = [
        torch.from_numpy(case[f'in.x{k}']).to(device, dtype) for k in (1, 2)
    ]
    samples = reference_samples(case)
    outputs = model.loss(views, samples)
    outputs['loss'].backward()
    return model, views, samples, outputs, dtype


def expected(arrays, name, dtype):
    return arrays[name if dtype is torch.float64 else f'f32.{name}']


def test_relative_embedding(case):
    samples = reference_samples(case)
    geometry = PairGeometry.stack([s.geometry for s in samples])
    ours = relative_embedding(geometry, GRID, GRID, DIMS, torch.float64)
    assert relative_error(ours, case['mid.rel_embed']) < 1e-9


def test_loss_and_its_terms(case, run):
    model, _, _, outputs, dtype = run
    # The released code logs its terms before their factors in the loss.
    dim, weight = model.neck.predict.out_features, model.head.negative_weight
    assert set(outputs) == {'loss', 'positive_term', 'negative_term'}
    for ours, theirs, factor in (
        ('loss', 'loss', 1),
        ('positive_term', 'pos_term', 1 / dim),
        ('negative_term', 'neg_term', weight / dim),
    ):
        value = expected(case, f'out.{theirs}', dtype) * factor
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
        stored = expected(case, f'out.{name}', dtype)
        assert relative_error(value, stored) < BOUNDS[dtype], name


def test_every_gradient(case, run):
    model, _, _, _, dtype = run
    gradients = {
        name: p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    stored = state(case, 'grad.')
    assert {*gradients} == {*from_official(stored)}
    assert len(stored) == 80
    gradients = to_official(gradients)
    for name in stored:
        value = expected(case, f'grad.{name}', dtype)
        error = relative_error(gradients[name], value)
        # A gradient that is zero up to rounding has no relative error.
        scale = np.linalg.norm(stored[name]) / stored[name].numel() ** 0.5
        if scale > 1e-12:
            assert error < BOUNDS[dtype], name


def test_target_and_batch_norm_buffers_after_the_step(case, run):
    model, _, _, _, dtype = run
    after = {
        name: value
        for name, value in state(case, 'after.').items()
        if name != 'mm_mask_token'  # nothing reads it
    }
    ours = to_official(model.state_dict())
    assert any('running_var' in name for name in after)
    for name, value in after.items():
        error = relative_error(ours[name].double(), value.double())
        assert error < BOUNDS[dtype], name
    assert ('mm_cls_token' in after) == case['in.update_mm']
