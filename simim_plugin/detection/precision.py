"""Heads that keep boxes in float32 in a detector that computes in bfloat16.

bfloat16 has 8 significant bits: a corner near 1000 pixels is off by up to 2.
mmcv's ``nms`` and ``RoIAlign`` have no bfloat16 kernel either.

Shape key: B batch, A anchors per place, K regions, C channels, P x P grid of
a region.
"""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class Float32RPNHead(RPNHead):
    """MMDetection's ``RPNHead`` with float32 scores and boxes."""

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B, A, H, W) and boxes (B, 4 A, H, W)."""
        scores, boxes = super().forward_single(x)
        return scores.float(), boxes.float()


@MODELS.register_module()
class Float32RoIExtractor(SingleRoIExtractor):
    """MMDetection's ``SingleRoIExtractor``, pooling in float32.

    MMDetection casts the regions to the type of the features.
    """

    def forward(
        self,
        feats: tuple[Tensor, ...],
        rois: Tensor,
        roi_scale_factor: float | None = None,
    ) -> Tensor:
        """Pool regions (K, 5) from levels (B, C, H, W) to (K, C, P, P)."""
        with torch.autocast(rois.device.type, enabled=False):
            levels = tuple(level.float() for level in feats)
            return super().forward(levels, rois.float(), roi_scale_factor)
