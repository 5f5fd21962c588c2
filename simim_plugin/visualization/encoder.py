"""The encoder of any checkpoint, with its tokens and attention maps.

Shape key: B images, R x C patches, N = R * C, A attention heads, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from ..checkpoint import read_weights
from ..checkpoint.portable import Portable
from ..errors import SimimError
from ..evaluation.features import encode_images, frozen

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


class FrozenEncoder(BaseModel):
    """A plain ViT with the weights of a checkpoint, for images of one size.

    Args:
        file (str | Path): see
            :func:`simim_plugin.checkpoint.load_backbone`.
        size (int, optional): height and width of the images, pixels; the
            checkpoint's own if None. Position embeddings are interpolated
            (bicubic).
        num_heads (int, optional): attention heads, needed if neither the
            file nor the width determines them.
        branch (str): see :func:`simim_plugin.checkpoint.load_backbone`.

    Raises:
        CheckpointError: if the file cannot be read or is not a plain ViT.
        SimimError: if ``size`` is not a multiple of the patch size.
    """

    def __init__(
        self,
        file: str | Path,
        size: int | None = None,
        num_heads: int | None = None,
        branch: str = 'online',
    ) -> None:
        super().__init__(
            dict(type='mmpretrain.SelfSupDataPreprocessor', mean=MEAN, std=STD)
        )
        plain = Portable(read_weights(file, branch), num_heads)
        size = size or max(plain.size)
        if size % plain.patch or size < plain.patch:
            raise SimimError(
                f'Images of {size} px are no whole number of patches of '
                f'{plain.patch} px; pass --size '
                f'{max(1, round(size / plain.patch)) * plain.patch}.'
            )
        self.size = size
        self.backbone = plain.backbone
        grid = (size // plain.patch,) * 2
        self.backbone.pos_embed.data = resize_pos_embed(
            self.backbone.pos_embed.data, self.grid, grid, 'bicubic'
        )
        self.backbone.patch_resolution = grid
        self.to(get_device())

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, cols = self.backbone.patch_resolution
        return rows, cols

    def forward(self, images: Sequence[np.ndarray]) -> Tensor:
        """Encode images to patch tokens.

        Args:
            images (Sequence[np.ndarray]): B times (H, W, 3) uint8 RGB.

        Returns:
            Tensor: (B, R, C, D) float32, on the CPU.
        """
        with frozen(self):
            tokens = encode_images(self, images)
        patches = tokens[:, self.backbone.num_extra_tokens :]
        return patches.unflatten(1, self.grid).float().cpu()

    def cls_attention(self, images: Sequence[np.ndarray]) -> Tensor:
        """Compute the attention of the cls token in the last block.

        Args:
            images (Sequence[np.ndarray]): B times (H, W, 3) uint8 RGB.

        Returns:
            Tensor: (B, A, 1 + N) float32, on the CPU. The shares sum to 1:
            first the cls token itself, then the patches, row by row.
        """
        attention: Any = self.backbone.layers[-1].attn
        shares: list[Tensor] = []

        def record(layer: nn.Linear, _: Any, qkv: Tensor) -> None:
            parts = qkv.unflatten(-1, (3, attention.num_heads, -1))
            q, k, _ = parts.permute(2, 0, 3, 1, 4)  # (B, A, 1 + N, D / A)
            logits = q[:, :, :1] @ k.mT / q.shape[-1] ** 0.5
            shares.append(logits.float().softmax(dim=-1)[:, :, 0])

        handle = attention.qkv.register_forward_hook(record)
        try:
            with frozen(self):
                encode_images(self, images)
        finally:
            handle.remove()
        return shares[0].cpu()
