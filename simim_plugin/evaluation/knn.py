"""k nearest neighbours on frozen features, the quick measure of a run.

The protocol is frozen: L2-normalised features, cosine similarity, k = 20
(10, 100 and 200 beside it), votes weighted by exp(similarity / 0.07).

Shape key: T training images, V validation images, C channels, k neighbours,
L classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SimimError

KS = (10, 20, 100, 200)
"""The numbers of neighbours reported; 20 is the one to quote."""

# Similarities held at once: 256 MB in float32.
_CHUNK = 2**26


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    ks: Sequence[int] = KS,
    temperature: float = 0.07,
) -> dict[int, float]:
    """Top-1 accuracy of a weighted k-nearest-neighbour classifier.

    Of classes with equal votes the first wins; which of several equally
    near images is the k-th neighbour is open. A k above the number of
    training images uses them all. Runs where ``train_features`` lie, in
    float32 if they are of half precision.

    Args:
        train_features (Tensor): (T, C), any scale.
        train_labels (Tensor): (T,) class indices from 0.
        val_features (Tensor): (V, C).
        val_labels (Tensor): (V,) class indices.
        ks (Sequence[int]): numbers of neighbours.
        temperature (float): of the votes; smaller trusts the nearest more.

    Returns:
        dict[int, float]: accuracy in percent for every k.

    Raises:
        SimimError: if a feature is not finite, or the shapes do not fit.
    """
    train, train_labels = _checked('training', train_features, train_labels)
    val, val_labels = _checked('validation', val_features, val_labels)
    if train.shape[1] != val.shape[1]:
        raise SimimError(
            f'The training features have {train.shape[1]} channels and the '
            f'validation features {val.shape[1]}; extract both with the '
            'same model and pooling.'
        )
    if not ks or min(ks) < 1:
        raise SimimError(
            f'Numbers of neighbours must be 1 or more, got {list(ks)}.'
        )
    train_labels = train_labels.to(train.device)
    val, val_labels = val.to(train), val_labels.to(train.device)
    num_classes = int(torch.cat([train_labels, val_labels]).max()) + 1
    nearest = min(max(ks), len(train))
    correct = dict.fromkeys(ks, 0)
    for rows in torch.arange(len(val)).split(max(1, _CHUNK // len(train))):
        similarity = val[rows] @ train.T  # (v, T)
        similarity, index = similarity.topk(nearest)  # (v, k)
        # Relative to the nearest, so that no temperature overflows.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        labels = train_labels[index]
        for k in ks:
            votes = weight.new_zeros(len(rows), num_classes)  # (v, L)
            votes.scatter_add_(1, labels[:, :k], weight[:, :k])
            hits = votes.argmax(dim=1) == val_labels[rows]
            correct[k] += int(hits.sum())
    return {k: 100 * hits / len(val) for k, hits in correct.items()}


def _checked(
    name: str, features: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Normalised features of at least float32, and their labels."""
    if features.ndim != 2 or len(features) == 0:
        raise SimimError(
            f'The {name} features must be images x channels, with at least '
            f'one image, got the shape {tuple(features.shape)}.'
        )
    if labels.shape != features.shape[:1]:
        raise SimimError(
            f'There are {len(features)} {name} features but labels of shape '
            f'{tuple(labels.shape)}; give one label per image.'
        )
    broken = len(features) - int(features.isfinite().all(dim=1).sum())
    if broken:
        raise SimimError(
            f'The {name} features of {broken} of {len(features)} images are '
            'not finite (NaN or infinity); the model has diverged, go back '
            'to an earlier checkpoint.'
        )
    dtype = torch.promote_types(features.dtype, torch.float32)
    return F.normalize(features.to(dtype), dim=1), labels
