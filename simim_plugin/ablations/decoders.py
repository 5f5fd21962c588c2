"""Decoders of the ablations.

Shape key: B batch, N target patches, D channels.
"""

from __future__ import annotations

from typing import Any

from mmpretrain.registry import MODELS
from torch import nn

from ..geometry import Grid
from ..models.decoder import RelativePositionDecoder


@MODELS.register_module()
class PixelDecoder(RelativePositionDecoder):
    """Predict the pixel values of every target patch.

    Args:
        out_dims (int): values per patch: its pixels times the channels.
        **kwargs: see :class:`RelativePositionDecoder`.
    """

    def __init__(self, out_dims: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.predict = nn.Linear(self.embed_dims, out_dims)


@MODELS.register_module()
class SmallTargetDecoder(RelativePositionDecoder):
    """Predict a target view that has a smaller grid of patches.

    Args:
        target_grid (tuple[int, int]): rows and columns of patches of the
            target view; ``grid`` applies to the online view only.
        **kwargs: see :class:`RelativePositionDecoder`.
    """

    def __init__(self, target_grid: Grid, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_grid = (target_grid[0], target_grid[1])
