"""Norms of other encoders."""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from ..tensors import wide

FINAL_NORM = ('final_norm', 'final_norm_affine')
"""Options of the norm after the last block."""


@MODELS.register_module()
class RMSNorm(nn.Module):
    """Divide tokens by their root mean square, in float32.

    torch has one since 2.4.

    Args:
        dims (int): channels C.
        eps (float): added to the mean square. Defaults to 1e-5.
        elementwise_affine (bool): multiply by weights. Defaults to True.
    """

    _abbr_ = 'ln'  # MMCV's prefix of its attribute

    def __init__(
        self, dims: int, eps: float = 1e-5, elementwise_affine: bool = True
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight: nn.Parameter | None = None
        if elementwise_affine:
            self.weight = nn.Parameter(torch.ones(dims))

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise (..., C)."""
        values = wide(tokens)
        mean_square = values.square().mean(dim=-1, keepdim=True)
        normed = (values * (mean_square + self.eps).rsqrt()).to(tokens.dtype)
        return normed if self.weight is None else normed * self.weight


def final_norm(norm_cfg: dict, dims: int, affine: bool) -> nn.Module:
    """Build the norm after the last block.

    Args:
        norm_cfg (dict): its settings.
        dims (int): channels.
        affine (bool): give it weights.
    """
    if not affine:
        norm_cfg = dict(norm_cfg, elementwise_affine=False)
    return build_norm_layer(norm_cfg, dims)
