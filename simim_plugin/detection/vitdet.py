"""The backbone of ViTDet (Li et al. 2022): a plain ViT with windows.

Most blocks attend within windows of 14 x 14 patches, four to the whole image;
all add decomposed relative positions. The parameters are those of
MMPretrain's ``ViTSAM``, but not their use: ``ViTSAM`` has no drop path after
the attention, resizes the position table in float32 (Detectron2 in the
table's own precision) and holds N x N logits for every head.

Shape key: B batch, H x W patches, N = H W, C channels, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models import ViTSAM
from mmpretrain.models.backbones.vit_sam import (
    Attention,
    TransformerEncoderLayer,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checkpoint import fill_pretrained, refuse_init_cfg
from ..freezing import FrozenStages


@MODELS.register_module()
class SiameseIMViTDet(FrozenStages, ViTSAM):
    """ViTDet's backbone, for images of any size.

    Args:
        arch (str | dict): 'base', 'large', 'huge', or the dictionary of
            :class:`mmpretrain.models.ViTSAM`, with the indices of global
            blocks in ``global_attn_indexes``.
        img_size (int): side of the training images, pixels. The relative
            positions of global blocks have this size and are interpolated
            for other images. Defaults to 1024.
        pretrain_img_size (int): side of the pretraining images, pixels; with
            ``patch_size`` it sets the size of the position table. Defaults
            to 224.
        with_cp (bool): recompute the blocks' activations in the backward
            pass instead of keeping them. Defaults to False.
        frozen_stages (int): as in
            :class:`simim_plugin.models.SiameseIMViT`. Defaults to -1.
        pretrained (str | dict, optional): as in
            :class:`simim_plugin.models.SiameseIMViT`. A patch kernel of
            another size is resized. The relative positions, which a plain
            ViT lacks, start at zero.
        **kwargs: see :class:`mmpretrain.models.ViTSAM`.
    """

    num_extra_tokens = 0  # no cls token

    def __init__(
        self,
        arch: str | dict = 'base',
        *,
        img_size: int = 1024,
        pretrain_img_size: int = 224,
        with_cp: bool = False,
        frozen_stages: int = -1,
        pretrained: str | dict | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_init_cfg('SiameseIMViTDet', kwargs.get('init_cfg'))
        patch_size = kwargs.get('patch_size', 16)
        # ViTSAM has one size for both; its position table is not used.
        super().__init__(
            arch,
            img_size=pretrain_img_size,
            out_channels=0,
            use_abs_pos=False,
            layer_cfgs=dict(input_size=(img_size // patch_size,) * 2),
            **kwargs,
        )
        rows, columns = self.patch_resolution
        self.pos_embed = nn.Parameter(
            torch.zeros(1, rows * columns, self.embed_dims)
        )
        self.with_cp = with_cp
        self.freeze(frozen_stages)
        self.pretrained = pretrained

    def init_weights(self) -> None:
        """Initialise as in Detectron2, then load ``pretrained``.

        Raises:
            CheckpointError: if ``pretrained`` is unsafe or does not fit.
        """
        super().init_weights()
        for layer in self.layers.modules():
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        if self.pretrained is not None:
            fill_pretrained(
                self,
                self.pretrained,
                resize_patches=True,
                stays_new=('rel_pos_h', 'rel_pos_w'),
            )

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Encode images (B, 3, height, width) to features (B, C, H, W)."""
        tokens, (height, width) = self.patch_embed(images)
        tokens = tokens.unflatten(1, (height, width))  # (B, H, W, C)
        tokens = tokens + self._positions(height, width)
        for layer in self.layers:
            if self.with_cp and self.training:
                tokens = checkpoint(block, layer, tokens, use_reentrant=False)
            else:
                tokens = block(layer, tokens)
        return (tokens.permute(0, 3, 1, 2).contiguous(),)

    def _positions(self, height: int, width: int) -> Tensor:
        """Return the position table, interpolated to (1, H, W, C)."""
        table = self.pos_embed.unflatten(1, self.patch_resolution)
        if self.patch_resolution != (height, width):
            table = F.interpolate(
                table.permute(0, 3, 1, 2), (height, width), mode='bicubic'
            ).permute(0, 2, 3, 1)
        return table


def block(layer: TransformerEncoderLayer, tokens: Tensor) -> Tensor:
    """Apply a transformer block to (B, H, W, C), in padded windows if set."""
    drop_path = layer.ffn.dropout_layer
    normed = layer.ln1(tokens)
    if layer.window_size > 0:
        size = normed.shape[1:3]
        windows, padded = window_partition(normed, layer.window_size)
        windows = attend(layer.attn, windows)
        attended = window_unpartition(windows, layer.window_size, padded, size)
    else:
        attended = attend(layer.attn, normed)
    tokens = tokens + drop_path(attended)
    return layer.ffn(layer.ln2(tokens), identity=tokens)


def attend(attn: Attention, tokens: Tensor) -> Tensor:
    """Apply attention with decomposed relative positions to (B, H, W, C)."""
    _, height, width, _ = tokens.shape
    query, key, value = split_heads(attn, tokens)
    query, key = with_relative_positions(attn, query, key, height, width)
    # Fused kernels need values as wide as keys.
    padded = F.pad(value, (0, key.shape[-1] - value.shape[-1]))
    attended = F.scaled_dot_product_attention(query, key, padded, scale=1.0)
    attended = attended[..., : value.shape[-1]]
    return merge_heads(attn, attended, (height, width))


def split_heads(attn: Attention, tokens: Tensor) -> tuple[Tensor, ...]:
    """Project tokens (B, H, W, C) to q, k and v, each (B, heads, N, D)."""
    qkv = attn.qkv(tokens.flatten(1, 2))  # (B, N, 3 C)
    qkv = qkv.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return qkv.unbind(0)


def merge_heads(
    attn: Attention, attended: Tensor, size: tuple[int, int]
) -> Tensor:
    """Project the output of all heads (B, heads, N, D) to (B, H, W, C)."""
    attended = attended.transpose(1, 2).flatten(2)  # (B, N, C)
    return attn.proj(attended).unflatten(1, size)


def with_relative_positions(
    attn: Attention, query: Tensor, key: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Widen query and key until their products are the logits.

    Decomposed relative positions add q.R_y for the key's row and q.R_x for
    its column to q.k / sqrt(D). The query receives its products with all rows
    and columns, and the key a one-hot mark of its own, which avoids N x N
    logits.

    Args:
        attn (Attention): holds the tables, one vector per distance.
        query (Tensor): (B, heads, N, D).
        key (Tensor): (B, heads, N, D).
        height (int): H, patches per column.
        width (int): W, patches per row.

    Returns:
        tuple[Tensor, Tensor]: both (B, heads, N, D + H + W), or (B, heads,
        N, D) without relative positions.
    """
    scaled = query * attn.scale
    if not attn.use_rel_pos:
        return scaled, key
    placed = query.unflatten(2, (height, width))
    rows = get_rel_pos(height, height, attn.rel_pos_h)  # (H, H, D)
    columns = get_rel_pos(width, width, attn.rel_pos_w)  # (W, W, D)
    vertical = torch.einsum('bnhwd,hkd->bnhwk', placed, rows).flatten(2, 3)
    horizontal = torch.einsum('bnhwd,wkd->bnhwk', placed, columns)
    index = torch.arange(height * width, device=key.device)
    row, column = (
        F.one_hot(index // width, height),
        F.one_hot(index % width, width),
    )
    marks = torch.cat([row, column], dim=1).to(key)  # (N, H + W)
    marks = marks.expand(*key.shape[:2], -1, -1)
    return (
        torch.cat([scaled, vertical, horizontal.flatten(2, 3)], dim=-1),
        torch.cat([key, marks], dim=-1),
    )
