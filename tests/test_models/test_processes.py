"""Two processes on half a batch each equal one on the whole batch."""

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.model import MMDistributedDataParallel
from torch import nn

from simim_plugin.ablations import NormedUniGradHead
from simim_plugin.models import TokenBatchNorm
from simim_plugin.runs.batch_norm import (
    GlobalBatchNorm,
    SyncedBatchNorm,
    depends_on_sync_bn,
    spanning,
)
from simim_plugin.runs.processes import together

from ..training_processes import in_two
from .helpers import small_batch, small_model

NORMS = ('MAELikeNorm', 'MoCoLikeNorm')


def model_with(norm, device):
    model = small_model().double()
    model.head = NormedUniGradHead(norm=dict(type=norm))
    return model.to(device)


def step(model, inputs, samples):
    """Return loss, terms, gradients and BatchNorm buffers of one step."""
    outputs = model(inputs, samples, mode='loss')
    outputs['loss'].backward()
    model = getattr(model, 'module', model)
    result = {name: value.detach() for name, value in outputs.items()}
    for name, p in model.named_parameters():
        if p.grad is not None:
            result[f'grad.{name}'] = p.grad
    for name, value in model.named_buffers():
        if 'running' in name:
            result[name] = value
    return {name: value.cpu() for name, value in result.items()}


UNEVEN = ((5, 3), (8, 0))
"""Rows of the first and of the second process."""


def rows():
    """Return values (8, 4) far from zero, and a gradient for each."""
    generator = torch.Generator().manual_seed(0)
    values, gradient = torch.randn(
        2, sum(UNEVEN[0]), 4, generator=generator, dtype=torch.float64
    )
    return 3 * values + 50, gradient


def normalised(layer, values, gradient):
    """Return results, gradients and statistics of a BatchNorm."""
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2, -1, 0.5]))
        layer.bias.copy_(torch.tensor([0.0, 1, 2, 3]))
    values = values.clone().requires_grad_()
    result = layer(values)
    result.backward(gradient)
    parts = [result, values.grad, layer.weight.grad, layer.bias.grad]
    parts += [layer.running_mean, layer.running_var]
    return [part.detach() for part in parts]


class Kept:
    """Count the numbers that are kept for the backward pass."""

    def __init__(self):
        self.count = 0

    def __call__(self, tensor):
        self.count += tensor.numel()
        return tensor


def uneven(shares):
    values, gradient = (part.split(shares)[get_rank()] for part in rows())
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x):
        parts = normalised(GlobalBatchNorm(4), values, gradient)
    # The input and a few vectors; nn.BatchNorm1d keeps no less.
    assert kept.count <= values.numel() + 4 * 4
    return parts


@pytest.mark.slow
@pytest.mark.parametrize('shares', UNEVEN)
def test_batch_norm_spans_processes_with_different_numbers_of_rows(shares):
    first, second = in_two(uneven, shares)
    expected = normalised(nn.BatchNorm1d(4), *rows())
    found = [
        torch.cat(pair) for pair in zip(first[:2], second[:2], strict=True)
    ]
    found += [a + b for a, b in zip(first[2:4], second[2:4], strict=True)]
    found += first[4:]
    assert all(
        torch.equal(*pair) for pair in zip(first[4:], second[4:], strict=True)
    )
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-11, atol=1e-11)


def test_sync_bn_leaves_our_batch_norm_and_replaces_others():
    parts = nn.Sequential(TokenBatchNorm(4), nn.BatchNorm2d(3))
    ours = parts[0].bn
    found = spanning(parts)
    assert found[0].bn is ours
    assert type(found[1]) is SyncedBatchNorm
    assert type(spanning(nn.BatchNorm1d(2))) is SyncedBatchNorm


def test_sync_bn_keeps_the_places_of_parameters():
    """A momentum copy lists them when it is built."""
    norm = nn.BatchNorm1d(2)
    places = norm._parameters, norm._buffers
    found = spanning(norm)
    assert found._parameters is places[0] and found._buffers is places[1]


def test_sync_bn_without_effect_is_reported(monkeypatch):
    lines = []
    monkeypatch.setattr(
        'simim_plugin.runs.processes.print_log',
        lambda line, **_: lines.append(line),
    )
    ours = nn.Sequential(TokenBatchNorm(4), nn.LayerNorm(4))
    other = nn.Sequential(TokenBatchNorm(4), nn.BatchNorm1d(4))
    assert not depends_on_sync_bn(ours)
    assert depends_on_sync_bn(other)
    together(dict(sync_bn=None), ours)
    assert depends_on_sync_bn(together(dict(sync_bn='torch'), other))
    assert not lines
    together(dict(sync_bn='torch'), ours)
    assert len(lines) == 1 and 'sync_bn has no effect' in lines[0]


def half(device):
    """Return the result of a step on half of the batch for each norm."""
    inputs, samples = small_batch(size=6)
    part = slice(3 * get_rank(), 3 * get_rank() + 3)
    inputs = [view[part].double().to(device) for view in inputs]
    results = {}
    for norm in NORMS:
        model = model_with(norm, device)
        if device == 'cuda':  # as sync_bn = 'torch' does
            model = spanning(model)
        model = MMDistributedDataParallel(
            model, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        results[norm] = step(model, inputs, samples[part])
    return results


@pytest.mark.slow
@pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]
)
def test_two_processes_equal_one(device):
    halves = in_two(half, device)
    inputs, samples = small_batch(size=6)
    inputs = [view.double().to(device) for view in inputs]
    for norm in NORMS:
        first, second = (results[norm] for results in halves)
        whole = step(model_with(norm, device), inputs, samples)
        assert whole.keys() == first.keys() == second.keys()
        for name, expected in whole.items():
            if name.startswith('grad.') or 'running' in name:
                assert torch.equal(first[name], second[name]), name
                value = first[name]
            else:
                value = (first[name] + second[name]) / 2
            # A bias before a BatchNorm has zero gradient, up to rounding.
            bound = 1e-6 * max(expected.norm(), 1e-8)
            assert (value - expected).norm() < bound, (norm, name)
