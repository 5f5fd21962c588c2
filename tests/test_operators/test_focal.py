"""Focal losses against their definition."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss
from torch.autograd import gradcheck

GAMMA, ALPHA = 2.0, 0.25


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    weight = torch.rand(4, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.tensor([0, 3, 2, 2, 1]), weight.to(dtype)


def test_sigmoid() -> None:
    logits, target, _ = inputs()
    target[0] = 4  # the background
    found = sigmoid_focal_loss(logits, target, GAMMA, ALPHA, None, 'none')
    for n, row in enumerate(logits.tolist()):
        for c, x in enumerate(row):
            p = 1 / (1 + exp(-x))
            expected = (
                -ALPHA * (1 - p) ** GAMMA * log(p)
                if c == target[n]
                else -(1 - ALPHA) * p**GAMMA * log(1 - p)
            )
            assert found[n, c].item() == pytest.approx(expected)


def test_softmax() -> None:
    logits, target, _ = inputs()
    target[1] = -1  # is ignored
    found = softmax_focal_loss(
        logits.clone(), target, GAMMA, ALPHA, None, 'none'
    )
    for n, row in enumerate(logits.tolist()):
        p = exp(row[target[n]]) / sum(map(exp, row))
        expected = -ALPHA * (1 - p) ** GAMMA * log(p)
        expected *= target[n] >= 0
        assert found[n].item() == pytest.approx(float(expected))


@pytest.mark.parametrize('loss', [sigmoid_focal_loss, softmax_focal_loss])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_gradients(loss, reduction, weighted, gamma) -> None:
    logits, target, weight = inputs()
    if not weighted:
        weight = None
        target[0] = -1 if loss is softmax_focal_loss else 4
    assert gradcheck(
        lambda x: loss(x, target, gamma, ALPHA, weight, reduction),
        logits.requires_grad_(),
    )


@pytest.mark.parametrize('loss', [sigmoid_focal_loss, softmax_focal_loss])
def test_weights_apply_by_target(loss) -> None:
    logits, target, weight = inputs()
    options = (target, GAMMA, ALPHA)
    plain = loss(logits.clone(), *options, None, 'none')
    found = loss(logits.clone(), *options, weight, 'none')
    factor = weight[target]
    factor = factor[:, None] if plain.dim() == 2 else factor
    torch.testing.assert_close(found, plain * factor)


@pytest.mark.parametrize('loss', [sigmoid_focal_loss, softmax_focal_loss])
@pytest.mark.parametrize('far', [100.0, 1e4])
def test_confident_errors_stay_finite(loss, far: float) -> None:
    logits = torch.tensor([[far, -far], [-far, far]], requires_grad=True)
    value = loss(logits, torch.tensor([1, 1]), GAMMA, ALPHA, None, 'sum')
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize('loss', [sigmoid_focal_loss, softmax_focal_loss])
@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_low_precision(loss, dtype) -> None:
    logits, target, _ = inputs(dtype)
    found = loss(logits.clone(), target, GAMMA, ALPHA, None, 'none')
    exact = loss(logits.double(), target, GAMMA, ALPHA, None, 'none')
    assert found.dtype == dtype
    # mmcv computes the softmax in the type of the logits.
    torch.testing.assert_close(found.double(), exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize('loss', [sigmoid_focal_loss, softmax_focal_loss])
def test_no_samples(loss) -> None:
    logits = torch.zeros(0, 4, requires_grad=True)
    value = loss(logits, torch.zeros(0).long(), GAMMA, ALPHA, None, 'sum')
    value.backward()
    assert value == 0 and logits.grad.shape == (0, 4)
