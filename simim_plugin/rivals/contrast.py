"""Contrastive losses: MoCo-v3's (arXiv 2104.02057, algorithm 1) and DenseCL's
(arXiv 2011.09157, eq. 1 to 4).

Shape key: B batch, P processes, N patches, C backbone channels, D channels,
Q queued keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_rank
from torch import Tensor

from ..tensors import wide


def info_nce(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Return MoCo-v3's loss of one direction, times 2 T.

    The negatives of a query are the keys of the other images of all
    processes.

    Args:
        query (Tensor): (B, D).
        key (Tensor): (B, D), row for row the positives; no gradient flows
            into it.
        temperature (float): T, above 0.
    """
    query = F.normalize(wide(query), dim=1)
    key = F.normalize(wide(key.detach()), dim=1)
    keys = torch.cat(all_gather(key))  # (P * B, D)
    logits = query @ keys.T / temperature
    first = get_rank() * len(query)
    labels = torch.arange(first, first + len(query), device=query.device)
    return 2 * temperature * F.cross_entropy(logits, labels)


def queued_nce(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float
) -> Tensor:
    """Return the mean InfoNCE of queries against a queue of negatives.

    Args:
        query (Tensor): (M, D), of length 1.
        key (Tensor): (M, D), of length 1, row for row the positives.
        queue (Tensor): (D, Q), columns of length 1.
        temperature (float): above 0.
    """
    positive = (query * key).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, query @ queue], dim=1) / temperature
    labels = torch.zeros(len(query), dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, labels)


class DenseMatches(NamedTuple):
    """The features that DenseCL compares.

    No gradient flows into keys and backbones.

    Args:
        query (Tensor): (B, D) of the images.
        key (Tensor): (B, D) of the images.
        query_grid (Tensor): (B, D, N) of the patches.
        key_grid (Tensor): (B, D, N) of the patches.
        query_backbone (Tensor): (B, C, N), by which patches are matched.
        key_backbone (Tensor): (B, C, N).
    """

    query: Tensor
    key: Tensor
    query_grid: Tensor
    key_grid: Tensor
    query_backbone: Tensor
    key_backbone: Tensor


def match(query: Tensor, key: Tensor) -> Tensor:
    """Return the most similar key patch of each query patch, (B, N).

    Args:
        query (Tensor): (B, C, N).
        key (Tensor): (B, C, N).
    """
    query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    return (query.mT @ key).argmax(dim=2)


def dense_contrast(
    parts: DenseMatches,
    queue: Tensor,
    dense_queue: Tensor,
    temperature: float = 0.2,
    dense_weight: float = 0.5,
) -> dict[str, Tensor]:
    """Return DenseCL's loss and its two parts.

    Args:
        parts (DenseMatches): of a batch.
        queue (Tensor): (D, Q) keys of earlier images, of length 1.
        dense_queue (Tensor): (D, Q) mean keys of their patches.
        temperature (float): above 0. Defaults to 0.2.
        dense_weight (float): share of the patches, 0 to 1. Defaults to 0.5.

    Returns:
        dict[str, Tensor]: ``loss``, ``global_term`` and ``dense_term``.
    """
    query, key, query_grid, key_grid = (
        F.normalize(wide(part), dim=1) for part in parts[:4]
    )
    nearest = match(parts.query_backbone, parts.key_backbone)  # (B, N)
    key_grid = key_grid.detach().take_along_dim(nearest[:, None], dim=2)
    whole = queued_nce(query, key.detach(), queue, temperature)
    dense = queued_nce(
        query_grid.mT.flatten(0, 1),
        key_grid.mT.flatten(0, 1),
        dense_queue,
        temperature,
    )
    return dict(
        loss=(1 - dense_weight) * whole + dense_weight * dense,
        global_term=whole.detach(),
        dense_term=dense.detach(),
    )
