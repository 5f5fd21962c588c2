"""The backbone of ViTDet (Li et al. 2022): a plain ViT with windows.

Most blocks attend within windows of 14 x 14 patches, four to the whole image;
all add decomposed relative positions. The parameters are those of
MMPretrain's ``ViTSAM``, but not their use: ``ViTSAM`` has no drop path after
the attention, resizes the position table in float32 (Detectron2 in the
table's own precision) and holds N x N logits for every head.

Shape key: B batch, H x W patches, N = H W, C channels, D channels of a head.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from mmdet.registry import MODELS
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models import ViTSAM
from mmpretrain.models.backbones.vit_sam import (
    TransformerEncoderLayer,
    window_partition,
    window_unpartition,
)
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from ..checkpoint.loading import fill_pretrained, refuse_init_cfg
from ..freezing import FrozenStages
from ..geometry import Grid
from ..vit import ARCHES, check_choice, resize_table
from ..vit.layers import (
    FFN_TYPES,
    ROTARY_KINDS,
    add_tokens,
    build_rotary,
    check_norms,
    extra_tokens,
    layer_depth,
    run_block,
)
from ..vit.norm import final_norm as build_final_norm
from .attention import attend
from .extended_block import extend_layers, extended_block, image_places

_QUARTERS = {
    name: dict(
        arch,
        global_attn_indexes=[
            k * arch['num_layers'] // 4 - 1 for k in range(1, 5)
        ],
    )
    for name, arch in ARCHES.items()
}
QUARTERS = {
    **{name[0]: arch for name, arch in _QUARTERS.items()},
    **_QUARTERS,
}
"""Architectures in which the last block of each quarter is global."""


@MODELS.register_module()
class SiameseIMViTDet(FrozenStages, ViTSAM):
    """ViTDet's backbone, for images of any size.

    ``num_registers``, ``absolute_positions``, ``rotary``, ``relative_bias``,
    ``qk_norm``, ``attn_norm``, ``ffn_type``, ``ffn_norm``,
    ``layer_scale_init_value``, ``pre_norm``, ``final_norm``,
    ``final_norm_affine`` and ``interpolate_antialias`` are as in
    :class:`simim_plugin.vit.PlainViT`, and off by default. A relative bias
    is interpolated to the windows, and in global blocks to the image.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', 'large', 'huge' or
            'giant', or the dictionary of :class:`mmpretrain.models.ViTSAM`,
            with the indices of global blocks in ``global_attn_indexes``.
            Defaults to 'base'.
        img_size (int): side of the training images, pixels. The relative
            positions of global blocks have this size and are interpolated
            for other images. Defaults to 1024.
        pretrain_img_size (int): side of the pretraining images, pixels; with
            ``patch_size`` it sets the grid of the positions and of the
            relative bias. Defaults to 224.
        with_cp (bool): recompute the blocks' activations in the backward
            pass instead of keeping them. Defaults to False.
        frozen_stages (int): as in
            :class:`simim_plugin.models.SiameseIMViT`. Defaults to -1.
        with_cls_token (bool): keep the cls token. Defaults to False.
        layer_cfgs (dict, optional): other arguments of all layers, such as
            ``act_cfg``.
        pretrained (str | dict, optional): as in
            :class:`simim_plugin.models.SiameseIMViT`. A patch kernel of
            another size is resized. The relative positions, which a plain
            ViT lacks, start at zero.
        **kwargs: see :class:`mmpretrain.models.ViTSAM`.

    Raises:
        SimimError: as :class:`simim_plugin.vit.PlainViT`.
    """

    pos_embed: Any  # parameters or None
    cls_token: Any
    registers: Any
    arch_zoo: ClassVar = QUARTERS

    def __init__(
        self,
        arch: str | dict = 'base',
        *,
        img_size: int = 1024,
        pretrain_img_size: int = 224,
        with_cp: bool = False,
        frozen_stages: int = -1,
        with_cls_token: bool = False,
        num_registers: int = 0,
        absolute_positions: bool = True,
        rotary: bool | str | None = None,
        qk_norm: bool = False,
        attn_norm: bool = False,
        ffn_type: str = 'origin',
        ffn_norm: bool = False,
        layer_scale_init_value: float = 0.0,
        pre_norm: bool = False,
        final_norm: bool = False,
        final_norm_affine: bool = True,
        interpolate_antialias: bool = False,
        relative_bias: bool = False,
        layer_cfgs: dict | None = None,
        pretrained: str | dict | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_init_cfg('SiameseIMViTDet', kwargs.get('init_cfg'))
        check_choice('arch', arch, QUARTERS)
        check_choice('rotary', rotary, ROTARY_KINDS)
        check_choice('ffn_type', ffn_type, FFN_TYPES)
        check_norms(ffn_norm, ffn_type)
        patch_size = kwargs.get('patch_size', 16)
        norm_cfg = kwargs.get('norm_cfg', dict(type='LN', eps=1e-6))
        if pre_norm:  # CLIP's patches have no bias
            kwargs.setdefault('patch_cfg', dict(bias=False))
        # ViTSAM has one size for both; its position table is not used.
        super().__init__(
            arch,
            img_size=pretrain_img_size,
            out_channels=0,
            use_abs_pos=False,
            layer_cfgs=dict(
                layer_cfgs or {}, input_size=(img_size // patch_size,) * 2
            ),
            **kwargs,
        )
        add_tokens(self, with_cls_token, num_registers, absolute_positions)
        dims, heads = self.embed_dims, self.arch_settings['num_heads']
        self.rotary = build_rotary(rotary, dims // heads, num_registers)
        self.interpolate_antialias = interpolate_antialias
        self.pre_norm = build_norm_layer(norm_cfg, dims) if pre_norm else None
        self.ln1 = None
        if final_norm:
            self.ln1 = build_final_norm(norm_cfg, dims, final_norm_affine)
        options = (
            layer_scale_init_value,
            qk_norm,
            attn_norm,
            ffn_type,
            ffn_norm,
            relative_bias,
        )
        self.extended = bool(
            self.num_extra_tokens
            or rotary
            or options != (0, False, False, 'origin', False, False)
        )
        if self.extended:
            extend_layers(self, norm_cfg, *options)
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
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for token in (self.cls_token, self.registers):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        if self.pretrained is not None:
            fill_pretrained(
                self,
                self.pretrained,
                resize_patches=True,
                stays_new=('rel_pos_h', 'rel_pos_w'),
            )

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Encode images (B, 3, height, width) to features (B, C, H, W)."""
        tokens, grid = self.patch_embed(images)  # (B, N, C)
        if self.pos_embed is not None:
            tokens = tokens + self._positions(grid)
        if self.extended:
            tokens = self._extended(tokens, grid)
        else:
            if self.pre_norm is not None:
                tokens = self.pre_norm(tokens)
            tokens = tokens.unflatten(1, grid)  # (B, H, W, C)
            for layer in self.layers:
                tokens = run_block(self.with_cp, block, layer, tokens)
        if self.ln1 is not None:
            tokens = self.ln1(tokens)
        return (tokens.permute(0, 3, 1, 2).contiguous(),)

    def _extended(self, patches: Tensor, grid: Grid) -> Tensor:
        """Encode patches (B, N, C) of other encoders to (B, H, W, C)."""
        extra = extra_tokens(self, patches.shape[0])
        tokens = torch.cat([*extra, patches], dim=1)  # (B, T, C)
        if self.pre_norm is not None:
            tokens = self.pre_norm(tokens)
        places = image_places(self, grid, patches.device)
        for layer in self.layers:
            tokens = run_block(
                self.with_cp, extended_block, layer, tokens, grid, places
            )
        return tokens[:, self.num_extra_tokens :].unflatten(1, grid)

    def _positions(self, grid: Grid) -> Tensor:
        """Return the positions (1, N, C), interpolated to a grid."""
        table = self.pos_embed[:, self.table_extra :]
        antialias = self.interpolate_antialias
        return resize_table(
            table, self.patch_resolution, grid, antialias=antialias
        )

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """See :func:`simim_plugin.vit.layers.layer_depth`."""
        return layer_depth(self, param_name, prefix)


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
