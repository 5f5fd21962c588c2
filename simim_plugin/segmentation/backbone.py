"""The ViT backbone of UPerNet.

Shape key: B batch, T tokens, C channels, H heads, h x w patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.utils import SwiGLUFFN, build_norm_layer
from mmseg.models.backbones import MAE
from mmseg.models.backbones.mae import MAEAttention
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..checkpoint.loading import fill_pretrained, refuse_init_cfg
from ..errors import SimimError
from ..freezing import FrozenStages
from ..models.positions import absolute_table
from ..vit import ARCHES, check_choice
from ..vit.layers import (
    FFN_TYPES,
    ROTARY_KINDS,
    PlacedAttention,
    Places,
    add_tokens,
    build_rotary,
    check_norms,
    extra_tokens,
    has_frequencies,
    layer_depth,
    queries_keys_values,
    query_key_norms,
    swiglu,
)
from ..vit.learned_rotary import new_frequencies
from ..vit.norm import final_norm
from ..vit.relative import bias_index

NEW = ('relative_position_bias_table', 'gamma_1', 'gamma_2')
"""Parameters of a block that a pretrained encoder may lack."""


class RelativeBiasAttention(PlacedAttention, MAEAttention):
    """MMSegmentation's attention with relative position bias, fused.

    Args:
        stock (MAEAttention): what it replaces.
        extra (int): tokens before the patches.
        rotary (nn.Module, optional): the places of queries and keys, of
            :func:`simim_plugin.vit.layers.build_rotary`.
        attn_drop_rate (float): share of attention weights to drop. The
            stock class ignores it.
        qkv_bias (bool): of the map to queries, keys and values.
        qk_norm (bool): normalise queries and keys.
        attn_norm (bool): normalise the result before the last map.
        norm_cfg (dict): of these norms.
    """

    def __init__(
        self,
        stock: MAEAttention,
        extra: int,
        rotary: Any,
        attn_drop_rate: float,
        qkv_bias: bool,
        qk_norm: bool,
        attn_norm: bool,
        norm_cfg: dict,
    ) -> None:
        super().__init__(
            stock.embed_dims,
            stock.num_heads,
            stock.window_size,
            qkv_bias,
            attn_drop_rate=attn_drop_rate,
        )
        index = bias_index(stock.window_size, extra)
        self.relative_position_index = index
        places, self.neighbours = None, False
        if rotary is not None:
            places = rotary(stock.window_size, torch.device('cpu'))
            self.neighbours = rotary.neighbours
        self.register_buffer('places', places, persistent=False)
        self.frequencies: nn.Parameter | None = None
        if has_frequencies(rotary):
            head_dims = stock.embed_dims // stock.num_heads
            self.frequencies = new_frequencies(head_dims)
        self.q_norm, self.k_norm = query_key_norms(
            qk_norm, norm_cfg, stock.embed_dims // stock.num_heads
        )
        self.norm = (
            build_norm_layer(norm_cfg, stock.embed_dims)
            if attn_norm
            else nn.Identity()
        )

    @property
    def bias_table(self) -> nn.Parameter:  # type: ignore[override]
        """The table under its name in an :class:`ExtendedAttention`."""
        return self.relative_position_bias_table

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend from (B, T, C) to (B, T, C)."""
        batch, count, channels = tokens.shape
        query, key, value = queries_keys_values(
            self.qkv(tokens), self.num_heads
        )  # (B, H, T, C / H) each
        learned = self.frequencies is not None
        places = Places(
            rotation=None if learned else self.places,
            bias_index=self.relative_position_index,
            coordinates=self.places if learned else None,
        )
        query, key, bias = self.place(query, key, places)
        assert bias is not None  # (H, T, T)
        tokens = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias[None],
            dropout_p=self.attn_drop.p if self.training else 0.0,
        )  # (B, H, T, C / H)
        tokens = tokens.transpose(1, 2).reshape(batch, count, channels)
        return self.proj_drop(self.proj(self.norm(tokens)))


def _shape_of(
    arch: str | Mapping[str, int], ffn_type: str
) -> tuple[dict[str, int], int]:
    """Return the arguments of ``MAE`` for an arch, and its hidden channels.

    Raises:
        SimimError: for an unknown arch, or MLPs that ``MAE`` cannot have.
    """
    check_choice('arch', arch, ARCHES)
    shape = dict(ARCHES[arch.lower()] if isinstance(arch, str) else arch)
    hidden = shape.pop('feedforward_channels')
    ratio = max(1, hidden // shape['embed_dims'])
    if ffn_type == 'origin' and hidden != ratio * shape['embed_dims']:
        raise SimimError(
            f'feedforward_channels of arch is {hidden}, which is no multiple '
            f'of embed_dims, {shape["embed_dims"]}; SiameseIMSegViT has no '
            'such MLP.'
        )
    return dict(shape, mlp_ratio=ratio), hidden


@MODELS.register_module()
class SiameseIMSegViT(FrozenStages, MAE):
    """MMSegmentation's ``MAE`` backbone, filled by this package's loader.

    A ViT with a relative position bias and LayerScale in every block, for
    images of one size. It differs from ``MAE`` in three ways: it loads every
    format that :func:`simim_plugin.checkpoint.load_backbone` knows and
    interpolates the positions; its attention is fused; and its positions
    start as the sin-cos table instead of zeros. ``with_cls_token``,
    ``num_registers``, ``absolute_positions``, ``rotary``, ``qk_norm``,
    ``attn_norm``, ``ffn_type``, ``ffn_norm``, ``pre_norm``,
    ``final_norm_affine`` and ``interpolate_antialias`` are as in
    :class:`simim_plugin.vit.PlainViT`.

    Args:
        arch (str | dict, optional): 'tiny', 'small', 'base', 'large', 'huge'
            or 'giant', or the dictionary of
            :class:`simim_plugin.vit.PlainViT`. Defaults to None: the
            arguments of ``MAE``, ``embed_dims`` and so on.
        pretrained (str | dict, optional): file to start from, or the
            arguments of ``load_backbone`` as ``dict(file=...,
            branch='target')``. ``init_weights`` reads it without unpickling.
            If the file lacks them, the bias stays at 0 and LayerScale at
            ``init_values``.
        frozen_stages (int): as in
            :class:`simim_plugin.models.SiameseIMViT`. Defaults to -1.
        init_values (float): LayerScale at the start, which is always on, as
            is the relative bias. Defaults to 1.
        layer_scale_init_value (float, optional): another name of
            ``init_values``.
        qkv_bias (bool): of the attention. Defaults to True.
        layer_cfgs (dict, optional): may hold ``act_cfg``.
        init_cfg (dict, optional): as in MMEngine, but not 'Pretrained'.
        **kwargs: see :class:`mmseg.models.MAE`.

    Raises:
        SimimError: for an ``init_cfg`` of type 'Pretrained', and as
            :class:`simim_plugin.vit.PlainViT`.
    """

    pos_embed: Any  # parameters or None
    cls_token: Any
    registers: Any
    table_extra: int
    num_extra_tokens: int
    aliases = (
        ('.attn.gamma1.weight', '.gamma_1'),
        ('.ffn.gamma2.weight', '.gamma_2'),
        ('.attn.bias_table', '.attn.relative_position_bias_table'),
    )
    """Names of a plain ViT, and of this backbone."""
    arch_zoo = ARCHES

    def __init__(
        self,
        arch: str | Mapping[str, int] | None = None,
        *,
        pretrained: str | Mapping[str, Any] | None = None,
        frozen_stages: int = -1,
        init_values: float = 1.0,
        layer_scale_init_value: float | None = None,
        relative_bias: bool = True,
        qkv_bias: bool = True,
        layer_cfgs: Mapping[str, Any] | None = None,
        embed_dims: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        act_cfg: dict | None = None,
        with_cls_token: bool = True,
        num_registers: int = 0,
        absolute_positions: bool = True,
        rotary: bool | str | None = None,
        qk_norm: bool = False,
        attn_norm: bool = False,
        ffn_type: str = 'origin',
        ffn_norm: bool = False,
        pre_norm: bool = False,
        interpolate_antialias: bool = False,
        final_norm_affine: bool = True,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_init_cfg('SiameseIMSegViT', init_cfg)
        check_choice('rotary', rotary, ROTARY_KINDS)
        check_choice('ffn_type', ffn_type, FFN_TYPES)
        check_norms(ffn_norm, ffn_type)
        if not relative_bias:
            raise SimimError(
                'SiameseIMSegViT always has a relative bias, which starts at '
                '0; leave relative_bias out.'
            )
        if layer_scale_init_value is not None:
            init_values = layer_scale_init_value
        shape: dict[str, Any] = dict(
            embed_dims=embed_dims,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
        )
        hidden = mlp_ratio * embed_dims
        if arch is not None:
            shape, hidden = _shape_of(arch, ffn_type)
        act_cfg = (layer_cfgs or {}).get('act_cfg', act_cfg)
        super().__init__(
            **shape,
            act_cfg=act_cfg or dict(type='GELU'),
            init_values=init_values,
            init_cfg=init_cfg,
            **kwargs,
        )
        self.pretrained = pretrained
        self.patch_resolution = self.patch_shape
        self.interpolate_antialias = interpolate_antialias
        add_tokens(self, with_cls_token, num_registers, absolute_positions)
        self.pre_norm = None
        if pre_norm:
            self.pre_norm = build_norm_layer(self.norm_cfg, self.embed_dims)
            self.patch_embed.projection.bias = None  # as in CLIP
        head_dims = self.embed_dims // self.num_heads
        self.rotary = build_rotary(rotary, head_dims, num_registers)
        if self.final_norm and not final_norm_affine:
            norm = final_norm(self.norm_cfg, self.embed_dims, affine=False)
            setattr(self, self.norm1_name, norm)
        self._extend_layers(qkv_bias, qk_norm, attn_norm)
        if ffn_type != 'origin':
            for layer in self.layers:
                layer.ffn = swiglu(
                    self.embed_dims,
                    ffn_type,
                    hidden,
                    add_identity=False,
                    norm_cfg=self.norm_cfg if ffn_norm else None,
                )
        self.freeze(frozen_stages)

    def _extend_layers(
        self, qkv_bias: bool, qk_norm: bool, attn_norm: bool
    ) -> None:
        """Give the blocks of the base class our attention."""
        for layer in self.layers:
            layer.attn = RelativeBiasAttention(
                layer.attn,
                self.num_extra_tokens,
                self.rotary,
                self.attn_drop_rate,
                qkv_bias,
                qk_norm,
                attn_norm,
                self.norm_cfg,
            )

    def fix_init_weight(self) -> None:
        """Scale the last map of each branch down with its depth."""
        for depth, layer in enumerate(self.layers, 1):
            swiglu = isinstance(layer.ffn, SwiGLUFFN)
            last = layer.ffn.w3 if swiglu else layer.ffn.layers[1]
            for linear in (layer.attn.proj, last):
                linear.weight.data.div_((2 * depth) ** 0.5)

    def init_weights(self) -> None:
        """Initialise as in MMSegmentation, then load ``pretrained``.

        Raises:
            CheckpointError: if ``pretrained`` is unsafe or does not fit.
        """
        tokens = self.cls_token, self.registers
        if self.cls_token is None:  # MMSegmentation expects one
            self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        super().init_weights()
        self.cls_token = tokens[0]
        if self.registers is not None:
            nn.init.trunc_normal_(self.registers, std=0.02)
        if self.pos_embed is not None:
            rows = self.pos_embed.shape[1]
            table = absolute_table(self.patch_shape, self.embed_dims)
            self.pos_embed.data.copy_(table[:, -rows:])
        if self.pretrained is not None:
            fill_pretrained(self, self.pretrained, stays_new=NEW)
        # MMSegmentation's class does not set it; a wrapper would initialise
        # the model once more.
        self._is_init = True

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return features (B, C, h, w) of the blocks in ``out_indices``.

        Raises:
            SimimError: for images of another size.
        """
        if images.shape[2:] != tuple(self.img_size):
            wanted, given = (
                ' x '.join(map(str, size))
                for size in (self.img_size, images.shape[2:])
            )
            raise SimimError(
                f'The backbone is built for images of {wanted} pixels and '
                f'was given {given}; set img_size of model.backbone, size '
                'of model.data_preprocessor and its test_cfg, and crop_size '
                'of model.test_cfg to the same.'
            )
        patches, grid = self.patch_embed(images)  # (B, N, C)
        if self.pos_embed is not None:
            patches = patches + self.pos_embed[:, self.table_extra :]
        extra = extra_tokens(self, patches.shape[0])
        tokens = torch.cat([*extra, patches], dim=1)  # (B, T, C)
        if self.pre_norm is not None:
            tokens = self.pre_norm(tokens)
        outputs = []
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens)
            if self.final_norm and index == self.num_layers - 1:
                tokens = self.norm1(tokens)
            if index in self.out_indices:
                featmap = tokens[:, self.num_extra_tokens :].unflatten(1, grid)
                outputs.append(featmap.permute(0, 3, 1, 2).contiguous())
        return tuple(outputs)

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """See :func:`simim_plugin.vit.layers.layer_depth`."""
        return layer_depth(self, param_name, prefix)
