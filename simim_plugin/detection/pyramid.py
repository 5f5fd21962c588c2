"""ViTDet's simple feature pyramid: every level from the last feature map.

Shape key: B batch, H x W patches, C channels of the backbone, O of the
pyramid.
"""

from __future__ import annotations

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from mmpretrain.models import LayerNorm2d
from torch import Tensor, nn


@MODELS.register_module()
class SiameseIMFeaturePyramid(BaseModule):
    """Levels at 4, 2, 1, 1/2 and 1/4 times the resolution of the patches.

    Patches of 16 pixels give strides 4, 8, 16, 32 and 64. Norms are
    LayerNorms over the channels, as in Detectron2.

    Args:
        in_channels (int): C.
        out_channels (int): O. Defaults to 256.
        init_cfg (dict, optional): see :class:`mmengine.model.BaseModule`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        half, quarter = in_channels // 2, in_channels // 4

        def up(before: int, after: int) -> nn.Module:
            return nn.ConvTranspose2d(before, after, kernel_size=2, stride=2)

        def level(channels: int, *resize: nn.Module) -> nn.Sequential:
            return nn.Sequential(
                *resize,
                nn.Conv2d(channels, out_channels, 1, bias=False),
                LayerNorm2d(out_channels, eps=1e-6),
                nn.Conv2d(
                    out_channels, out_channels, 3, padding=1, bias=False
                ),
                LayerNorm2d(out_channels, eps=1e-6),
            )

        self.levels = nn.ModuleList(
            [
                level(
                    quarter,
                    up(in_channels, half),
                    LayerNorm2d(half, eps=1e-6),
                    nn.GELU(),
                    up(half, quarter),
                ),
                level(half, up(in_channels, half)),
                level(in_channels),
                level(in_channels, nn.MaxPool2d(kernel_size=2, stride=2)),
            ]
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute the levels from the last feature map.

        Args:
            inputs (tuple[Tensor, ...]): the last one is (B, C, H, W).

        Returns:
            tuple[Tensor, ...]: five of (B, O, height, width), finest first:
            4 H x 4 W, 2 H x 2 W, H x W, and so on. Halves are rounded down,
            in the last level up.
        """
        outputs = [level(inputs[-1]) for level in self.levels]
        outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return tuple(outputs)
