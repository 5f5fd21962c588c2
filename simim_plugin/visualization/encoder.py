"""The encoder of any checkpoint, with its tokens and attention maps.

Shape key: B images, R x C patches, N = R * C, A attention heads, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..checkpoint import read_weights
from ..checkpoint.portable import Portable
from ..errors import SimimError
from ..evaluation.features import encode_images, frozen
from ..models import PairDataPreprocessor
from ..vit import ExtendedAttention, PlainViT
from ..vit.layers import queries_keys_values
from ..vit.relative import resize_bias


class FrozenEncoder(BaseModel):
    """A plain ViT with the weights of a checkpoint, for images of one size.

    Args:
        file (str | Path): see
            :func:`simim_plugin.checkpoint.load_backbone`.
        size (int, optional): height and width of the images, pixels; the
            checkpoint's own if None. Position embeddings are interpolated
            (bicubic), and tables of relative position bias (bilinear).
        num_heads (int, optional): attention heads, needed if neither the
            file nor the width determines them.
        branch (str): see :func:`simim_plugin.checkpoint.load_backbone`.
        mean, std (Sequence[float], optional): of each channel, levels from
            0 to 255; those of the encoder's family if None.

    Raises:
        CheckpointError: if the file cannot be read or is not a plain ViT.
        SimimError: if ``size`` is not a multiple of the patch size, or the
            statistics are not one for each channel.
    """

    def __init__(
        self,
        file: str | Path,
        size: int | None = None,
        num_heads: int | None = None,
        branch: str = 'online',
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        weights = read_weights(file, branch)
        plain = Portable(weights, num_heads)
        channels = plain.options.get('in_channels', 3)
        known = channels == len(weights.family.mean)
        mean = mean or (weights.family.mean if known else ())
        std = std or (weights.family.std if known else ())
        if not len(mean) == len(std) == channels:
            raise SimimError(
                f'The encoder takes images of {channels} channels; pass '
                'the mean and the std of its training, one value for each '
                'channel (--mean, --std).'
            )
        super().__init__(PairDataPreprocessor(mean, std))
        self.channels = channels
        size = max(plain.size) if size is None else size
        if size % plain.patch or size < plain.patch:
            raise SimimError(
                f'Images of {size} px are no whole number of patches of '
                f'{plain.patch} px; pass --size '
                f'{max(1, round(size / plain.patch)) * plain.patch}.'
            )
        self.size = size
        self.patch = plain.patch
        self.backbone = plain.backbone
        if plain.options.get('relative_bias') and (size, size) != plain.size:
            self.backbone = _for_size(plain, size)
        self.to(get_device())

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.size // self.patch
        return side, side

    def forward(self, images: Sequence[np.ndarray]) -> Tensor:
        """Encode images to patch tokens.

        Args:
            images (Sequence[np.ndarray]): B times (H, W, N) uint8, RGB if
                N is 3.

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
            images (Sequence[np.ndarray]): B times (H, W, N) uint8, RGB if
                N is 3.

        Returns:
            Tensor: (B, A, 1 + N) float32, on the CPU: first the cls token
            itself, then the patches, row by row. With the shares of
            registers, which are left out, they sum to 1.

        Raises:
            SimimError: if the encoder has no cls token.
        """
        if self.backbone.cls_token is None:
            raise SimimError(
                'The encoder has no cls token, so there is no attention of '
                'it; leave out the picture that shows it.'
            )
        attention: Any = self.backbone.layers[-1].attn
        shares: list[Tensor] = []

        def record(_: nn.Module, inputs: tuple, __: Any) -> None:
            tokens, *places = inputs
            q, k = queries_keys_values(
                attention.qkv(tokens), attention.num_heads
            )[:2]  # (B, A, T, D / A)
            bias: Tensor | float = 0.0
            if isinstance(attention, ExtendedAttention):
                q, k, found = attention.place(q, k, *places)
                bias = 0.0 if found is None else found[..., :1, :]
            logits = q[:, :, :1] @ k.mT / q.shape[-1] ** 0.5 + bias
            of_cls = logits.float().softmax(dim=-1)[:, :, 0]
            extra = self.backbone.num_extra_tokens
            shares.append(
                torch.cat([of_cls[..., :1], of_cls[..., extra:]], dim=-1)
            )

        handle = attention.register_forward_hook(record)
        try:
            with frozen(self):
                encode_images(self, images)
        finally:
            handle.remove()
        return shares[0].cpu()


def _for_size(plain: Portable, size: int) -> PlainViT:
    """Return an encoder of relative position bias for another size."""
    options = {'final_norm': False, **plain.options, 'out_type': 'raw'}
    backbone = PlainViT(**options, img_size=size)
    grids = plain.backbone.patch_resolution, backbone.patch_resolution
    state = plain.backbone.state_dict()
    backbone.load_state_dict(
        {
            name: resize_bias(state[name], *grids)
            if name.endswith('.bias_table')
            else state[name]
            for name in backbone.state_dict()
        }
    )
    return backbone
