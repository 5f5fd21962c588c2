"""k nearest neighbours on frozen features.

The protocol is fixed: L2-normalised features, cosine similarity, k = 20
(10, 100 and 200 are reported too), votes weighted by
exp(similarity / 0.07).

Shape key: T training images, V validation images, v images of a chunk,
C channels, k neighbours, L classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SimimError

KS = (10, 20, 100, 200)
"""The numbers of neighbours reported; quote 20."""

# Similarities in memory at once: 256 MB in float32.
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
    """Compute the top-1 accuracy of a weighted k-nearest-neighbour classifier.

    Equal votes go to the first class. The order of equally near images is
    undefined. A k above T uses all training images. The computation runs on
    the device of ``train_features``, in float32 for half-precision features.

    Args:
        train_features (Tensor): (T, C), any scale.
        train_labels (Tensor): (T,) class indices from 0.
        val_features (Tensor): (V, C).
        val_labels (Tensor): (V,) class indices.
        ks (Sequence[int]): numbers of neighbours.
        temperature (float): of the votes; a smaller one gives the nearest
            images more weight.

    Returns:
        dict[int, float]: accuracy in percent for every k.

    Raises:
        SimimError: if a feature is not finite, the shapes do not fit, or there
            are fewer than two classes.
    """
    train, train_labels = _checked('training', train_features, train_labels)
    val, val_labels = _checked('validation', val_features, val_labels)
    _check_channels(train, val)
    if not ks or min(ks) < 1:
        raise SimimError(
            f'Numbers of neighbours must be 1 or more, got {list(ks)}.'
        )
    if len(train_labels.unique()) < 2:
        raise SimimError(
            'The training images are of 1 class; kNN needs images of two or '
            'more.'
        )
    train_labels = train_labels.to(train.device)
    val, val_labels = val.to(train), val_labels.to(train.device)
    correct = dict.fromkeys(ks, 0)
    for rows in torch.arange(len(val)).split(max(1, _CHUNK // len(train))):
        votes = _votes(val[rows] @ train.T, train_labels, ks, temperature)
        for k, vote in zip(ks, votes, strict=True):
            hits = vote.argmax(dim=1) == val_labels[rows]
            correct[k] += int(hits.sum())
    return {k: 100 * hits / len(val) for k, hits in correct.items()}


@torch.no_grad()
def knn_scores(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Return the shares (V, L) that the classes have of the votes.

    Args:
        train_features (Tensor): see :func:`knn_accuracy`.
        train_labels (Tensor): (T,) class indices from 0.
        features (Tensor): (V, C).
        k (int): number of neighbours. Defaults to 20.
        temperature (float): of the votes. Defaults to 0.07.

    Raises:
        SimimError: see :func:`knn_accuracy`.
    """
    train, labels = _checked('training', train_features, train_labels)
    unknown = labels.new_zeros(len(features))
    val, _ = _checked('validation', features, unknown)
    _check_channels(train, val)
    labels, val = labels.to(train.device), val.to(train)
    parts = [
        next(_votes(part @ train.T, labels, (k,), temperature))
        for part in val.split(max(1, _CHUNK // len(train)))
    ]
    return F.normalize(torch.cat(parts), p=1, dim=1)


def _check_channels(train: Tensor, val: Tensor) -> None:
    if train.shape[1] != val.shape[1]:
        raise SimimError(
            f'The training features have {train.shape[1]} channels and the '
            f'validation features {val.shape[1]}; extract both with the '
            'same model and pooling.'
        )


def _votes(
    similarity: Tensor, labels: Tensor, ks: Sequence[int], temperature: float
) -> Iterator[Tensor]:
    """Sum the votes (v, L) of the nearest images for every k.

    Takes cosines (v, T) and class indices (T,).
    """
    num_classes = int(labels.max()) + 1
    similarity, index = similarity.topk(min(max(ks), len(labels)))  # (v, k)
    # Subtracting the nearest image's similarity prevents an overflow.
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    for k in ks:
        votes = weight.new_zeros(len(weight), num_classes)
        yield votes.scatter_add_(1, labels[index[:, :k]], weight[:, :k])


def _checked(
    name: str, features: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return normalised features of at least float32, and their labels."""
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
