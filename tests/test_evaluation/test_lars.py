"""LARS of the linear probe against its closed form."""

import pytest
import torch
from mmpretrain.engine import LARS
from mmpretrain.registry import OPTIMIZERS
from torch import nn

from simim_plugin.evaluation.lars import ProbeLARS

LRS = [0.5, 2.0, 0.1]


def run(optimizer, parameters, gradients):
    for lr, step in zip(LRS, gradients, strict=True):
        optimizer.param_groups[0]['lr'] = lr
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.fixture
def problem():
    """A matrix and a vector, and three gradients of each."""
    generator = torch.Generator().manual_seed(0)

    def draw():
        return [
            torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in ((3, 4), (5,))
        ]

    return draw(), [draw() for _ in LRS]


def test_three_steps_of_changing_lr(problem):
    """v <- 0.9 v + q g, p <- p - lr v, written out; 1-D: q = 1."""
    start, gradients = problem
    w, b = start
    v = torch.zeros_like(w)
    u = torch.zeros_like(b)
    for lr, (gw, gb) in zip(LRS, gradients, strict=True):
        v = 0.9 * v + 0.001 * w.norm() / gw.norm() * gw
        u = 0.9 * u + gb
        w = w - lr * v
        b = b - lr * u
    parameters = [nn.Parameter(part.clone()) for part in start]
    got = run(ProbeLARS(parameters, lr=1.0), parameters, gradients)
    torch.testing.assert_close(got, [w, b], rtol=1e-12, atol=0)


def test_differs_from_mmpretrain_only_by_a_changing_lr(problem):
    """On a matrix, with a constant lr, both are the same rule."""
    start, gradients = problem

    def both(lrs):
        results = []
        for kind in (ProbeLARS, LARS):
            matrix = nn.Parameter(start[0].clone())
            optimizer = kind([matrix], lr=1.0, momentum=0.9)
            for lr, (gradient, _) in zip(lrs, gradients, strict=True):
                optimizer.param_groups[0]['lr'] = lr
                matrix.grad = gradient.clone()
                optimizer.step()
            results.append(matrix.detach())
        return results

    ours, theirs = both([0.5, 0.5, 0.5])
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    ours, theirs = both(LRS)
    assert not torch.allclose(ours, theirs, rtol=1e-4)


def test_zero_norms_take_the_gradient_as_it_is():
    zero = nn.Parameter(torch.zeros(2, 2))
    still = nn.Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    ProbeLARS([zero, still], lr=0.5).step()
    assert torch.equal(zero.detach(), torch.full((2, 2), -0.5))
    assert torch.equal(still.detach(), torch.ones(2, 2))


def test_resumes_with_its_momentum(problem):
    start, gradients = problem
    parameters = [nn.Parameter(part.clone()) for part in start]
    optimizer = OPTIMIZERS.build(
        dict(type='ProbeLARS', params=parameters, lr=1.0)
    )
    straight = run(optimizer, parameters, gradients)
    parameters = [nn.Parameter(part.clone()) for part in start]
    first, second = (ProbeLARS(parameters, lr=1.0) for _ in range(2))
    for part, optimizer in ((0, first), (1, second), (2, second)):
        optimizer.param_groups[0]['lr'] = LRS[part]
        for parameter, gradient in zip(
            parameters, gradients[part], strict=True
        ):
            parameter.grad = gradient.clone()
        optimizer.step()
        if part == 0:
            second.load_state_dict(first.state_dict())
    for parameter, expected in zip(parameters, straight, strict=True):
        assert torch.equal(parameter.detach(), expected)
