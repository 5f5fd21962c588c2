"""Multinomial logistic regression on frozen features (the 1 % evaluation).

Shape key: T training images, V validation images, C channels, K classes.
"""

from __future__ import annotations

import logging
import warnings
from typing import Literal

import numpy as np
import torch.nn.functional as F
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor

from ..environment import require
from ..errors import SimimError

Solver = Literal['sklearn', 'cyanure']


def logistic_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    l2: float | None = None,
    solver: Solver = 'sklearn',
) -> float:
    """Compute the top-1 accuracy of a linear softmax classifier.

    As in the released code (docs/logistic.md), the mean of each feature vector
    over its channels is subtracted and the vector is scaled to unit length.
    W, without intercept, minimises ::

        mean cross-entropy(W x, y) + l2 / 2 * |W|^2

    Args:
        train_features (Tensor): (T, C).
        train_labels (Tensor): (T,) class indices.
        val_features (Tensor): (V, C).
        val_labels (Tensor): (V,) class indices.
        l2 (float, optional): 0.1 / T if None.
        solver (str): 'sklearn' converges in float64; 'cyanure', the released
            code's solver, stops at a relative duality gap of 1e-3.

    Returns:
        float: accuracy in percent.

    Raises:
        SimimError: if there are fewer than two classes, a feature is not
            finite, or the solver is unknown.
        MissingDependency: if the solver is not installed.
    """
    index, scores = logistic_scores(
        train_features, train_labels, val_features, l2, solver
    )
    predicted = index[scores.argmax(axis=1)]
    return 100 * float((predicted == val_labels.numpy()).mean())


def logistic_scores(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    l2: float | None = None,
    solver: Solver = 'sklearn',
) -> tuple[NDArray, NDArray]:
    """Fit the classifier of :func:`logistic_accuracy` and apply it.

    Args:
        train_features (Tensor): (T, C).
        train_labels (Tensor): (T,) class indices.
        features (Tensor): (V, C).
        l2 (float, optional): 0.1 / T if None.
        solver (str): see :func:`logistic_accuracy`.

    Returns:
        tuple[ndarray, ndarray]: the sorted labels of K classes, and the
        logits (V, K).

    Raises:
        SimimError: see :func:`logistic_accuracy`.
    """
    train, val = _prepared(train_features), _prepared(features)
    classes = len(train_labels.unique())
    if classes < 2:
        raise SimimError(
            f'The training images are of {classes} class; logistic '
            'regression needs images of two or more.'
        )
    l2 = 0.1 / len(train) if l2 is None else l2
    print_log(
        f'Logistic regression of {classes} classes on {len(train)} x '
        f'{train.shape[1]} features, l2 {l2:.3g}, solver {solver}',
        'current',
    )
    index, weight = fit_logistic(train, train_labels.numpy(), l2, solver)
    return index, val @ weight.T


def _prepared(features: Tensor) -> NDArray:
    """Check that features are finite; return centred unit rows, float64."""
    if not features.isfinite().all():
        raise SimimError(
            'Some features are not finite (NaN or infinity); the model has '
            'diverged, go back to an earlier checkpoint.'
        )
    return centred_unit_rows(features).double().numpy()


def centred_unit_rows(features: Tensor) -> Tensor:
    """Subtract its mean from each row (T, C), and scale it to unit length."""
    return F.normalize(features - features.mean(dim=1, keepdim=True), dim=1)


def fit_logistic(
    x: NDArray, y: NDArray, l2: float, solver: Solver = 'sklearn'
) -> tuple[NDArray, NDArray]:
    """Minimise the objective of :func:`logistic_accuracy`.

    Args:
        x (ndarray): (T, C) float64, centred and scaled.
        y (ndarray): (T,) labels of two or more classes, any integers.
        l2 (float): weight of the penalty.
        solver (str): 'sklearn' or 'cyanure'.

    Returns:
        tuple[ndarray, ndarray]: the sorted labels of K classes, and W (K, C).
    """
    solve = dict(sklearn=_solve_sklearn, cyanure=_solve_cyanure).get(solver)
    if solve is None:
        raise SimimError(
            f"There is no solver {solver!r}; use 'sklearn' or 'cyanure'."
        )
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) > 2:
        return classes, solve(x, index, l2)
    # For two classes both solvers return one vector w = W1 - W0 = 2 W1, and
    # |W|^2 = |w|^2 / 2.
    weight = solve(x, index, l2 / 2)
    return classes, np.vstack([-weight, weight]) / 2


def _solve_sklearn(x: NDArray, index: NDArray, l2: float) -> NDArray:
    """Return W (K, C), or w (1, C) for two classes."""
    require('logistic regression')
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        # scikit-learn minimises C * (sum of the losses) + |W|^2 / 2.
        C=1 / (l2 * len(x)),
        fit_intercept=False,
        # Bounds the largest entry of the gradient, tiny with many classes.
        tol=1e-7,
        max_iter=2000,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', ConvergenceWarning)
        model.fit(x, index)
    for warning in caught:
        print_log(
            str(warning.message).splitlines()[0], 'current', logging.WARNING
        )
    return model.coef_


def _solve_cyanure(x: NDArray, index: NDArray, l2: float) -> NDArray:
    """Return W (K, C), or w (1, C) for two classes."""
    require('logistic regression with cyanure')
    from cyanure.estimators import LogisticRegression

    model = LogisticRegression(
        lambda_1=l2,
        fit_intercept=False,
        multi_class='multinomial',
        tol=1e-3,
        max_iter=300,
        random_state=0,
    )
    model.fit(x, index)
    return np.asarray(model.get_weights()).T.reshape(-1, x.shape[1])
