"""The head of linear probing."""

from __future__ import annotations

from typing import Any

from mmpretrain.models import LinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class ProbeHead(LinearClsHead):
    """BatchNorm without affine parameters, then one linear layer.

    See docs/linear.md.

    Args:
        num_classes (int): number of classes.
        in_channels (int): channels C of the features.
        **kwargs: see :class:`mmpretrain.models.heads.ClsHead`.
    """

    def __init__(
        self, num_classes: int, in_channels: int, **kwargs: Any
    ) -> None:
        kwargs.setdefault(
            'init_cfg', dict(type='TruncNormal', layer='Linear', std=0.01)
        )
        super().__init__(num_classes, in_channels, **kwargs)
        self.norm = nn.BatchNorm1d(in_channels, affine=False, eps=1e-6)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the last feature (B, C), normalised."""
        return self.norm(feats[-1])
