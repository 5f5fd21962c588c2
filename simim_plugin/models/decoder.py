"""The neck: predict every patch of one view from the other, by position.

Shape key: B batch, E extra tokens (the cls token, and registers if there
are), V visible online patches, N target patches, D channels.
"""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..geometry import Grid, PairGeometry
from .backbone import init_linear_xavier
from .positions import absolute_table, relative_embedding
from .projector import transformer_blocks


@MODELS.register_module()
class RelativePositionDecoder(BaseModule):
    """Self-attention over the online tokens and one mask token per target
    patch, which carries the position of that patch in the online view.

    Paper section 3.2, eq. 2 and 3. Extra tokens are context only: nothing
    is predicted for them (docs/method.md, "Decoder").

    Args:
        grid (tuple[int, int]): rows and columns of patches of both views.
        embed_dims (int): channels D. Defaults to 768.
        depth (int): number of blocks. Defaults to 4.
        num_heads (int): attention heads. Defaults to 16.
        norm_cfg (dict): norm layer of the blocks.
    """

    def __init__(
        self,
        grid: Grid,
        embed_dims: int = 768,
        depth: int = 4,
        num_heads: int = 16,
        norm_cfg: dict = dict(type='TokenBatchNorm'),  # noqa: B006
    ) -> None:
        super().__init__()
        self.grid: Grid = (grid[0], grid[1])
        self.embed_dims = embed_dims
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.pos_embed = nn.Parameter(
            absolute_table(self.grid, embed_dims).float(), requires_grad=False
        )
        self.relative_map = nn.Linear(2 * embed_dims, embed_dims)
        self.layers = transformer_blocks(
            depth, embed_dims, num_heads, norm_cfg
        )
        self.predict = nn.Linear(embed_dims, embed_dims)

    def init_weights(self) -> None:
        """Initialise as in docs/method.md, "Initialisation"."""
        super().init_weights()
        init_linear_xavier(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, online: Tensor, visible: Tensor, geometry: PairGeometry
    ) -> Tensor:
        """Predict the target view's features.

        Args:
            online (Tensor): (B, E + V, D) projected extra tokens and visible
                patches of the online view.
            visible (Tensor): (B, V) row-major indices of those patches.
            geometry (PairGeometry): the B pairs of views.

        Returns:
            Tensor: (B, N, D).
        """
        return self.decode(online, visible, self.relative(geometry))

    def relative(self, geometry: PairGeometry) -> Tensor:
        """Return the relative embedding (B, N, 2 D) of the target patches."""
        dtype = self.pos_embed.dtype
        return relative_embedding(
            geometry, self.grid, self.grid, self.embed_dims, dtype
        )

    def decode(
        self, online: Tensor, visible: Tensor, relative: Tensor
    ) -> Tensor:
        """Predict (B, N, D) at relative embeddings (B, N, 2 D)."""
        count = online.shape[1] - visible.shape[1]
        extra, context = online[:, :count], online[:, count:]
        positions = self.pos_embed[0, 1:]  # (N, D); the cls row is zero
        context = context + positions[visible]  # (B, V, D)
        queries = self.mask_token + self.relative_map(relative)  # (B, N, D)
        tokens = torch.cat([extra, context, queries], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)  # (B, E + V + N, D)
        return self.predict(tokens[:, -queries.shape[1] :])
