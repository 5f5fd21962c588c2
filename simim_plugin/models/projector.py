"""The projector on top of the backbone, in both branches.

Shape key: B batch, T tokens, C backbone channels, D decoder channels.
"""

from __future__ import annotations

from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.backbones.vision_transformer import (
    TransformerEncoderLayer,
)
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..vit import lighten
from .backbone import init_linear_xavier


def transformer_blocks(
    depth: int, dims: int, num_heads: int, norm_cfg: dict
) -> ModuleList:
    """Build MMPretrain's pre-norm blocks, MLP ratio 4, with any norm."""
    blocks = ModuleList(
        TransformerEncoderLayer(dims, num_heads, 4 * dims, norm_cfg=norm_cfg)
        for _ in range(depth)
    )
    lighten(blocks)
    return blocks


@MODELS.register_module()
class TransformerProjector(BaseModule):
    """A linear map and transformer blocks with BatchNorm over tokens.

    Args:
        in_dims (int): backbone channels C.
        embed_dims (int): decoder channels D. Defaults to 768.
        depth (int): number of blocks. Defaults to 2.
        num_heads (int): attention heads. Defaults to 16.
        norm_cfg (dict): norm layer of the blocks.
    """

    def __init__(
        self,
        in_dims: int,
        embed_dims: int = 768,
        depth: int = 2,
        num_heads: int = 16,
        norm_cfg: dict = dict(type='TokenBatchNorm'),  # noqa: B006
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dims, embed_dims)
        self.layers = transformer_blocks(
            depth, embed_dims, num_heads, norm_cfg
        )

    def init_weights(self) -> None:
        """Initialise as in docs/method.md, "Initialisation"."""
        super().init_weights()
        init_linear_xavier(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens (B, T, C) to (B, T, D)."""
        tokens = self.embed(tokens)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens
