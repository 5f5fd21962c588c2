"""Properties of the algorithm: gradients, masks, grids, momentum."""

import pytest
import torch

from simim_plugin.errors import SimimError
from simim_plugin.models import UniGradHead

from .helpers import small_batch, small_model


def gradients(model, inputs, samples):
    model.zero_grad()
    outputs = model.loss(inputs, samples)
    outputs['loss'].backward()
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def test_the_loss_gradient_is_its_closed_form():
    """dL/dp = 2 ((p - t) + lambda C p) / (M D)."""
    generator = torch.Generator().manual_seed(0)
    prediction, target = (
        torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    prediction.requires_grad_()
    terms = UniGradHead(0.3).loss(prediction, target)
    terms['loss'].backward()
    assert torch.allclose(
        terms['loss'], terms['positive_term'] + terms['negative_term']
    )
    t = torch.nn.functional.layer_norm(target, (5,)).flatten(0, 1)
    p = prediction.detach().flatten(0, 1)
    similarity = p @ t.T  # the M x M matrix that the head avoids
    expected = 2 * ((p - t) + 0.3 * similarity @ t / len(t)) / p.numel()
    assert torch.allclose(
        prediction.grad.flatten(0, 1), expected, rtol=1e-12, atol=0
    )


def test_the_target_gets_no_gradient():
    model = small_model()
    names = gradients(model, *small_batch())
    assert names
    assert not [name for name in names if name.startswith('target.')]


def test_masked_pixels_do_not_change_the_loss():
    model = small_model().eval()
    (online_view, target_view), samples = small_batch()
    hidden = torch.stack([s.mask for s in samples]).view(-1, 1, 4, 4)
    pixels = hidden.repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.where(pixels, 100 * torch.randn_like(online_view), 0)
    loss = model.loss([online_view, target_view], samples)['loss']
    same = model.loss([online_view + noise, target_view], samples)['loss']
    other = model.loss([online_view + 0.01, target_view], samples)['loss']
    assert loss == same
    assert loss != other


def test_the_prediction_depends_on_the_geometry():
    model = small_model().eval()
    inputs, samples = small_batch()
    before = model.loss(inputs, samples)['loss']
    samples[0].geometry = samples[0].geometry.inverse()
    assert model.loss(inputs, samples)['loss'] != before


@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (2, 7)])
@pytest.mark.parametrize('patch', [4, 14])
@pytest.mark.parametrize('masked', [0, 1, 5])
def test_any_grid_and_any_number_of_masked_patches(grid, patch, masked):
    model = small_model(grid=grid, patch=patch)
    inputs, samples = small_batch(grid=grid, patch=patch, masked=masked)
    rows, cols = grid
    assert inputs[0].shape[2:] == (rows * patch, cols * patch)
    grads = gradients(model, inputs, samples)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert grads.keys() == trained
    assert all(g.isfinite().all() for g in grads.values())


def test_masks_of_unequal_size_are_refused():
    model = small_model()
    inputs, samples = small_batch()
    samples[1].mask[:] = False
    with pytest.raises(SimimError, match=r'0 to 6.*`num_masked`'):
        model.loss(inputs, samples)


def test_the_target_starts_as_a_copy_and_moves_by_the_momentum():
    model = small_model()
    for branch in ('backbone', 'projector'):
        online = getattr(model, branch).state_dict()
        target = model.target[branch].state_dict()
        for name, value in online.items():
            assert torch.equal(value, target[name]), name
    start = model.target['projector'].embed.weight.clone()
    with torch.no_grad():
        model.projector.embed.weight += 1
    model.update_target(0.75)
    moved = model.target['projector'].embed.weight
    assert torch.allclose(moved, start + 0.25)


def test_patch_embedding_and_positions_are_frozen():
    model = small_model()
    frozen = {
        name
        for name, p in model.named_parameters()
        if not p.requires_grad and not name.startswith('target.')
    }
    assert frozen == {
        'backbone.pos_embed',
        'backbone.patch_embed.projection.weight',
        'backbone.patch_embed.projection.bias',
        'neck.pos_embed',
    }


def test_features_equal_those_of_an_empty_mask():
    model = small_model().eval()
    inputs, _ = small_batch(masked=0)
    (tokens,) = model.extract_feat(inputs[0])
    everything = torch.arange(16).expand(4, -1)
    seen = model.backbone(inputs[0], everything)
    assert torch.allclose(tokens, seen, atol=1e-6)
