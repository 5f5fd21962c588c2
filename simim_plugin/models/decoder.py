"""The neck: predict every patch of one view from the other, by position.

Shape key: B batch, E extra tokens (the cls token, and registers if there
are), V visible online patches, N target patches, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..geometry import Grid, PairGeometry
from .backbone import init_linear_xavier
from .positions import absolute_table, relative_features, scaled_table
from .projector import transformer_blocks


@MODELS.register_module()
class RelativePositionDecoder(BaseModule):
    """Self-attention over the online tokens and one mask token per target
    patch, which carries the position of that patch in the online view.

    Paper section 3.2, eq. 2 and 3. Extra tokens are context only: nothing
    is predicted for them (docs/method.md, "Decoder").

    Args:
        grid (tuple[int, int]): rows and columns of patches of the views.
            Smaller views have the same positions at fewer points.
        embed_dims (int): channels D. Defaults to 768.
        depth (int): number of blocks. Defaults to 4.
        num_heads (int): attention heads. Defaults to 16.
        norm_cfg (dict): norm layer of the blocks.
        target_grid (tuple[int, int], optional): rows and columns of the
            target view, where an ablation has a smaller one. Defaults to
            ``grid``.
    """

    def __init__(
        self,
        grid: Grid,
        embed_dims: int = 768,
        depth: int = 4,
        num_heads: int = 16,
        norm_cfg: dict = dict(type='TokenBatchNorm'),  # noqa: B006
        target_grid: Grid | None = None,
    ) -> None:
        super().__init__()
        self.grid: Grid = (grid[0], grid[1])
        target_grid = target_grid or grid
        self.target_grid: Grid = (target_grid[0], target_grid[1])
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
        self,
        online: Tensor,
        visible: Tensor,
        geometry: PairGeometry,
        chosen: Tensor | None = None,
        grids: Sequence[Grid] | None = None,
    ) -> Tensor:
        """Predict the target view's features.

        Args:
            online (Tensor): (B, E + V, D) projected extra tokens and visible
                patches of the online view.
            visible (Tensor): (B, V) row-major indices of those patches.
            geometry (PairGeometry): the B pairs of views.
            chosen (Tensor, optional): (B, K) row-major indices of the
                target's patches to predict, for ablations. Defaults to all.
            grids (Sequence[tuple[int, int]], optional): rows and columns of
                the patches of the online and the target view. Defaults to
                ``grid`` and ``target_grid``.

        Returns:
            Tensor: (B, N, D), or (B, K, D) of the chosen patches.
        """
        online_grid, target_grid = grids or (self.grid, self.target_grid)
        targets = self.mask_tokens(geometry, target_grid)  # (B, N, D)
        if chosen is not None:
            targets = targets.take_along_dim(chosen[..., None], dim=1)
        count = online.shape[1] - visible.shape[1]
        extra, context = online[:, :count], online[:, count:]
        positions = self._positions(online_grid)  # (R * C, D)
        context = context + positions[visible]  # (B, V, D)
        tokens = torch.cat([extra, context, targets], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)  # (B, E + V + N, D)
        return self.predict(tokens[:, -targets.shape[1] :])

    def mask_tokens(
        self, geometry: PairGeometry, target_grid: Grid | None = None
    ) -> Tensor:
        """Return the mask tokens (B, N, D) with the patches' positions.

        They are ``relative_map`` of the relative embedding (B, N, 2 D),
        :func:`~simim_plugin.models.positions.relative_embedding`. The map is
        applied to rows, columns and scale separately, and the results are
        summed: R + C + 1 maps for each image instead of R x C wider ones.
        """
        rows, cols, scale = relative_features(
            geometry,
            target_grid or self.target_grid,
            self.grid,
            self.embed_dims,
            self.pos_embed.dtype,
        )  # (B, R, D / 2), (B, C, D / 2), (B, D)
        half = self.embed_dims // 2
        weights = self.relative_map.weight.split(
            [half, half, self.embed_dims], dim=1
        )
        # So few tokens need no autocast, and their sums stay exact.
        with torch.autocast(rows.device.type, enabled=False):
            scale = F.linear(scale, weights[2], self.relative_map.bias)
            rows = (
                F.linear(rows, weights[0])
                + (scale + self.mask_token[0])[:, None]
            )
            cols = F.linear(cols, weights[1])
            return (rows[:, :, None] + cols[:, None]).flatten(1, 2)

    def _positions(self, grid: Grid) -> Tensor:
        """Return the positions (R * C, D) of the patches of a view.

        Their unit is a patch of a view of full size.
        """
        if tuple(grid) == self.grid:
            return self.pos_embed[0, 1:]  # the cls row is zero
        table = scaled_table(
            grid, self.grid, self.embed_dims, self.pos_embed.device
        )
        return table[0].to(self.pos_embed)
