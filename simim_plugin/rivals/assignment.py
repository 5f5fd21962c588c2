"""MSN's loss: masked views are assigned to prototypes as the target view is
(arXiv 2204.07141, eq. 1).

Shape key: B images, V anchor views of each, D channels, K prototypes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor

from ..tensors import wide


@torch.no_grad()
def balanced(assigned: Tensor, rounds: int = 3) -> Tensor:
    """Give every prototype the same share of the images, by Sinkhorn.

    Args:
        assigned (Tensor): (B, K), positive.
        rounds (int): of scaling columns and rows. Defaults to 3.

    Returns:
        Tensor: (B, K), rows sum to 1.
    """
    table = assigned.clone()
    total = table.sum()
    all_reduce(total)
    table /= total
    for _ in range(rounds):
        columns = table.sum(dim=0)
        all_reduce(columns)
        table /= columns.clamp(min=_tiny(table)) * len(columns)
        table /= table.sum(dim=1, keepdim=True) * len(table)
    return table / table.sum(dim=1, keepdim=True)


@torch.no_grad()
def target_assignments(
    targets: Tensor,
    prototypes: Tensor,
    temperature: float = 0.1,
    sharpening: float = 0.25,
    sinkhorn: bool = True,
) -> Tensor:
    """Return the sharpened assignments (B, K) of target views.

    Args:
        targets (Tensor): (B, D).
        prototypes (Tensor): (K, D).
        temperature (float): above 0. Defaults to 0.1.
        sharpening (float): above 0; smaller is sharper. Defaults to 0.25.
        sinkhorn (bool): balance them. Defaults to True.
    """
    # The power 1 / sharpening of a softmax, without its underflow.
    assigned = _assign(targets, prototypes, temperature * sharpening)
    return balanced(assigned) if sinkhorn else assigned


def assignment_loss(
    anchors: Tensor,
    prototypes: Tensor,
    targets: Tensor,
    temperature: float = 0.1,
    me_max_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Return MSN's loss and its parts.

    Args:
        anchors (Tensor): (V * B, D), view by view.
        prototypes (Tensor): (K, D).
        targets (Tensor): (B, K), see :func:`target_assignments`.
        temperature (float): above 0. Defaults to 0.1.
        me_max_weight (float): of the term that spreads the mean assignment
            over the prototypes. Defaults to 1.

    Returns:
        dict[str, Tensor]: ``loss``, ``assignment_term`` and ``spread_term``,
        which is 0 if the mean assignment is even.
    """
    assigned = _assign(anchors, prototypes, temperature)  # (V * B, K)
    views = len(anchors) // len(targets)
    wanted = targets.detach().repeat(views, 1)
    assignment = -(wanted * assigned.clamp(min=_tiny(assigned)).log())
    assignment = assignment.sum(dim=1).mean()
    own = assigned.mean(dim=0)
    mean = own.detach().clone()
    all_reduce(mean, op='mean')
    # The value is that of all processes. Each has the gradient of its own
    # part, and averaged they are the gradient of the whole.
    mean = own + (mean - own.detach())
    spread = mean.new_tensor(len(mean)).log() - torch.special.entr(mean).sum()
    return dict(
        loss=assignment + me_max_weight * spread,
        assignment_term=assignment.detach(),
        spread_term=spread.detach(),
    )


def _assign(
    features: Tensor, prototypes: Tensor, temperature: float
) -> Tensor:
    """Return the assignments of features (M, D) to K prototypes, (M, K)."""
    features = F.normalize(wide(features), dim=1)
    prototypes = F.normalize(wide(prototypes), dim=1)
    return F.softmax(features @ prototypes.T / temperature, dim=1)


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
