"""The collapse monitor: its figures, limits and verdicts."""

import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from simim_plugin.engine.collapse import (
    effective_rank,
    feature_figures,
    measured_every,
)
from simim_plugin.errors import SimimError
from simim_plugin.models import UniGradHead

from ..test_models.helpers import small_model
from .training import GUARD, Pairs, printed, scalars
from .training import QUICK_COLLAPSE_MONITOR as QUICK


def directly(target, prediction):
    """Compute every figure from its definition, pair by pair."""
    _, patches, dim = target.shape
    rows = target.reshape(-1, dim)
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(
        rows.var(1, keepdims=True) + 1e-5
    )
    singular = np.linalg.svd(rows, compute_uv=False)
    share = singular / singular.sum()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    predicted = prediction.reshape(-1, dim)
    predicted /= np.linalg.norm(predicted, axis=1, keepdims=True)
    within, between, kernel = [], [], []
    for a, b in combinations(range(len(unit)), 2):
        alike = a // patches == b // patches
        (within if alike else between).append(unit[a] @ unit[b])
        kernel.append(math.exp(-2 * np.sum((unit[a] - unit[b]) ** 2)))
    return dict(
        rank=math.exp(-np.sum(share * np.log(share))),
        token_std=rows.std(axis=0).mean(),
        cos_image=np.mean(within),
        cos_batch=np.mean(between),
        align=np.mean(np.sum((unit - predicted) ** 2, axis=1)),
        uniform=math.log(np.mean(kernel)),
    )


def test_figures_against_their_definitions():
    generator = torch.Generator().manual_seed(0)
    target, prediction = torch.randn(2, 3, 5, 4, generator=generator)
    target = target + 1.5 * torch.randn(3, 1, 4, generator=generator)
    expected = directly(target.double().numpy(), prediction.double().numpy())
    figures = feature_figures(target, prediction)
    assert figures == pytest.approx(expected, rel=1e-4)
    # Half precision, as under autocast, is computed in float32.
    half = feature_figures(target.bfloat16(), prediction.bfloat16())
    assert half == pytest.approx(expected, rel=0.05)
    assert 'align' not in feature_figures(target)


def test_figures_of_features_that_have_collapsed():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(8, 16, 32, generator=generator)
    healthy = feature_figures(spread)
    assert healthy['rank'] > 25
    assert healthy['token_std'] > 0.9
    constant = feature_figures(spread[:1, :1].expand_as(spread))
    assert constant['rank'] == pytest.approx(1, abs=0.1)  # rounding
    assert constant['token_std'] == pytest.approx(0, abs=0.001)
    assert constant['cos_batch'] == pytest.approx(1)
    assert constant['uniform'] == pytest.approx(0, abs=1e-4)
    per_image = feature_figures(spread[:, :1].expand_as(spread))
    assert per_image['cos_image'] == pytest.approx(1)
    assert per_image['cos_batch'] < 0.2
    few = spread[..., :3] @ torch.randn(3, 32, generator=generator)
    assert feature_figures(few)['rank'] < 3.1


@pytest.mark.parametrize('size', [1, 5, 64])
def test_without_pairs_there_is_no_cosine(size):
    torch.manual_seed(0)
    figures = feature_figures(torch.randn(size, 1, 8))  # one patch
    assert math.isnan(figures['cos_image'])
    assert math.isnan(figures['cos_batch']) is (size == 1)
    figures = feature_figures(torch.randn(1, size, 8))  # one image
    assert math.isnan(figures['cos_batch'])
    assert math.isnan(figures['cos_image']) is (size == 1)


def test_rank_uses_the_matrix_of_the_negative_term():
    torch.manual_seed(0)
    target = torch.randn(2, 9, 6)
    prediction = torch.randn(2, 9, 6)
    terms = UniGradHead().loss(prediction, target)
    tokens = torch.nn.functional.layer_norm(target, (6,)).flatten(0, 1)
    correlation = tokens.T @ tokens / 18
    rows = prediction.flatten(0, 1)
    negative = 0.02 * ((rows @ correlation) * rows).sum() / 18 / 6
    assert negative == pytest.approx(terms['negative_term'].item())
    rank = effective_rank(correlation).item()
    assert feature_figures(target)['rank'] == pytest.approx(rank)
    assert effective_rank(torch.eye(6)).item() == pytest.approx(6)


def test_a_healthy_run_is_measured_without_a_verdict(train):
    runner = train(QUICK, epochs=4)
    assert 'Collapse at' not in printed(runner)
    log = scalars(runner)
    for name in ('rank', 'token_std', 'cos_image', 'cos_batch'):
        assert all(name in line for line in log), name
    assert all({'align', 'uniform'} <= line.keys() for line in log)
    # Measured at the first and every second iteration, constant in between.
    ranks = [line['rank'] for line in log]
    assert ranks[0] != ranks[1] == ranks[2] != ranks[3] == ranks[4]
    assert 1 < log[1]['rank'] < 16
    # Its forward hooks are removed after each measurement.
    model = runner.model
    for part in (model.target['projector'], model.neck):
        assert not part._forward_hooks


@torch.no_grad()
def flatten(model, kind):
    """Make the target projector return collapsed features."""
    weight = torch.zeros(16, 16)

    def constant(part, inputs, output):
        return output.mean(dim=(0, 1), keepdim=True).expand_as(output)

    def per_image(part, inputs, output):
        return output.mean(dim=1, keepdim=True).expand_as(output)

    def narrow(part, inputs, output):
        weight[:, 0] = torch.linspace(-1, 1, 16)
        return output @ weight.T

    collapse = dict(constant=constant, per_image=per_image, narrow=narrow)
    model.target['projector'].register_forward_hook(collapse[kind])
    return model


@pytest.mark.parametrize(
    ('kind', 'verdict'),
    [
        ('constant', r'all but constant \(token_std .*limit'),
        ('per_image', r'alike over all patches of an image \(cos_image'),
        ('narrow', r'fill few of 16 directions \(rank 1\.0.*limit'),
    ],
)
def test_a_collapsed_run_gets_a_verdict(train, kind, verdict):
    settings = dict(QUICK, min_rank=0.1)
    runner = train(settings, model=flatten(small_model(), kind))
    log = printed(runner)
    # Once, at the second measurement in a row.
    (line,) = re.findall(f'.*Collapse at.*{verdict}.*', log)
    assert 'WARNING' in line
    assert 'at iteration 4:' in line
    with pytest.raises(SimimError, match=f'^Collapse at it.*{verdict}'):
        train(dict(settings, stop=True), model=flatten(small_model(), kind))
    assert train.runner.iter == 3


def test_a_run_without_negatives_collapses(train):
    """Train without negatives, momentum or BatchNorm; default limits."""
    model = small_model()
    model.head.negative_weight = 0.0
    for part in (model.projector, model.target['projector'], model.neck):
        for layer in part.layers:
            layer.ln1, layer.ln2 = nn.LayerNorm(16), nn.LayerNorm(16)
    model.target.requires_grad_(False)
    hooks = [
        dict(type='MomentumHook', base_momentum=0.0),
        dict(type='CollapseMonitor', interval=6),
    ]
    faster = dict(optimizer=dict(type='AdamW', lr=0.01))
    runner = train(*hooks, model=model, epochs=10, optim_wrapper=faster)
    assert re.search(
        r'Collapse at iteration \d+: .*token_std', printed(runner)
    )


def test_other_algorithms_are_ignored(train):
    model = small_model()
    keep = model.target
    model.target = None
    model.encode_target = lambda view: keep['projector'](
        keep['backbone'](view)[0]
    )[:, 1:].detach()
    model.update_target = lambda momentum: None
    runner = train(QUICK, model=model, epochs=1)
    assert 'CollapseMonitor has nothing to watch' in printed(runner)
    assert 'rank' not in scalars(runner)[-1]


def test_nan_is_no_collapse(train):
    # The monitor sees the target view.
    data = Pairs(spoiled=[4])
    data.inputs[1][4] = math.nan
    runner = train(QUICK, GUARD, dataset=data)
    assert 'A step is skipped: loss' in printed(runner)
    assert 'Collapse at' not in printed(runner)
    ranks = [line['rank'] for line in scalars(runner)[1:]]
    assert [math.isnan(rank) for rank in ranks] == [True] + [False] * 4


@pytest.mark.parametrize(
    ('interval', 'steps', 'often'),
    [
        (50, 6, 1),
        (50, 24, 2),
        (50, 400, 25),
        (50, 500, 50),
        (50, 10**6, 50),
        (7, 24, 1),
        (1, 3, 1),
    ],
)
def test_a_short_run_is_measured_more_often(interval, steps, often):
    """Ten times or more, and whenever a verdict is due."""
    assert measured_every(interval, steps) == often


def test_a_short_run_has_figures_from_its_first_step(train):
    """Verdicts wait for the interval, as in a long run."""
    hook = dict(type='CollapseMonitor', patience=1)
    runner = train(hook, model=flatten(small_model(), 'constant'))
    ranks = [line['rank'] for line in scalars(runner)]
    assert len(ranks) == 6
    assert 'Collapse at' not in printed(runner)
