"""Logistic regression against a direct minimisation of the objective."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from simim_plugin.errors import SimimError
from simim_plugin.evaluation.logistic import (
    centred_unit_rows,
    fit_logistic,
    logistic_accuracy,
)


def problem(classes, count=90, channels=6):
    """Draw overlapping clouds, one per class, as rows of unit length."""
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, count)
    centres = rng.normal(size=(classes, channels))
    x = torch.tensor(centres[y] + rng.normal(size=(count, channels)))
    return centred_unit_rows(x).numpy(), y


def objective(weight, x, y, l2):
    """Compute cross-entropy + l2 / 2 |W|^2 and its gradient; W (K, C)."""
    w = torch.tensor(weight.reshape(-1, x.shape[1]), requires_grad=True)
    scores = torch.tensor(x) @ w.T
    loss = F.cross_entropy(scores, torch.tensor(y)) + l2 / 2 * w.square().sum()
    loss.backward()
    return loss.item(), w.grad.numpy().ravel()


@pytest.mark.parametrize('classes', [2, 3, 5])
@pytest.mark.parametrize('l2', [0.1 / 90, 0.05])
def test_weights_minimise_the_objective(classes, l2):
    x, y = problem(classes)
    direct = minimize(
        objective,
        np.zeros(classes * x.shape[1]),
        (x, y, l2),
        jac=True,
        method='L-BFGS-B',
        options=dict(gtol=1e-10, ftol=1e-15, maxiter=5000),
    )
    index, weight = fit_logistic(x, y, l2)
    assert index.tolist() == list(range(classes))
    value, gradient = objective(weight.ravel(), x, y, l2)
    expected = direct.x.reshape(weight.shape)
    np.testing.assert_allclose(weight, expected, atol=2e-4)
    assert abs(gradient).max() < 1e-6
    assert value == pytest.approx(direct.fun, rel=1e-7)


@pytest.mark.parametrize('classes', [2, 4])
def test_cyanure_finds_the_same_minimum(classes):
    pytest.importorskip('cyanure')
    x, y = problem(classes)
    l2 = 0.01
    _, exact = fit_logistic(x, y, l2)
    index, weight = fit_logistic(x, y, l2, solver='cyanure')
    assert index.tolist() == list(range(classes))
    best, _ = objective(exact, x, y, l2)
    value, _ = objective(weight, x, y, l2)
    assert value == pytest.approx(best, rel=1e-3)


def test_each_row_is_centred_and_scaled():
    rows = torch.tensor([[1.0, 2.0, 3.0], [10.0, 10.0, 40.0]])
    expected = torch.tensor([[-1.0, 0, 1], [-10, -10, 20]])
    expected /= torch.tensor([[2.0], [600]]).sqrt()
    torch.testing.assert_close(centred_unit_rows(rows), expected)


def test_accuracy_ignores_offset_and_scale_of_a_vector():
    x, y = problem(5, count=200, channels=8)
    features, labels = torch.tensor(x), torch.tensor(y)
    train, val = slice(0, 120), slice(120, 200)
    plain = logistic_accuracy(
        features[train], labels[train], features[val], labels[val]
    )
    scale = torch.rand(200, 1).double() * 9 + 1
    moved = features * scale + torch.randn(200, 1).double()
    assert 30 < plain < 100
    assert plain == logistic_accuracy(
        moved[train], labels[train], moved[val], labels[val]
    )


def test_default_penalty_is_a_tenth_over_the_number_of_images():
    x, y = problem(5, count=120, channels=8)
    sets = [torch.tensor(part) for part in (x[:60], y[:60], x[60:], y[60:])]
    assert logistic_accuracy(*sets) == logistic_accuracy(*sets, l2=0.1 / 60)
    # The penalty matters.
    assert logistic_accuracy(*sets) != logistic_accuracy(*sets, l2=10.0)


def test_labels_with_gaps_and_unseen_classes():
    train = torch.eye(3).repeat(4, 1)
    labels = torch.tensor([7, 2, 900] * 4)
    val_labels = torch.tensor([7, 2, 5])
    accuracy = logistic_accuracy(train, labels, torch.eye(3), val_labels)
    assert accuracy == pytest.approx(100 * 2 / 3)


def test_two_classes():
    train = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).repeat(5, 1)
    labels = torch.tensor([4, 9] * 5)
    assert logistic_accuracy(train, labels, train, labels) == 100
    assert logistic_accuracy(train, labels, train, 13 - labels) == 0


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(train_labels=torch.zeros(6, dtype=torch.long)), 'of 1 class'),
        (dict(val_features=torch.full((6, 3), torch.nan)), 'not finite'),
        (dict(solver='adam'), "'sklearn' or 'cyanure'"),
    ],
)
def test_bad_input(change, words):
    sets = dict(
        train_features=torch.randn(6, 3),
        train_labels=torch.tensor([0, 1, 2] * 2),
        val_features=torch.randn(6, 3),
        val_labels=torch.tensor([0, 1, 2] * 2),
    )
    with pytest.raises(SimimError, match=words):
        logistic_accuracy(**{**sets, **change})
