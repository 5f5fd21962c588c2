"""Decoders of the ablations.

Shape key: B batch, N target patches, D channels.
"""

from __future__ import annotations

from typing import Any

from mmpretrain.registry import MODELS
from torch import nn

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
