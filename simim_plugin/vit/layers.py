"""Transformer layers of encoders that are not SiameseIM's.

Shape key: B batch, T tokens, N patches, H heads, C channels, D channels of a
head.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import DropPath
from mmpretrain.models import VisionTransformer
from mmpretrain.models.backbones.vision_transformer import (
    TransformerEncoderLayer,
)
from mmpretrain.models.utils import (
    MultiheadAttention,
    SwiGLUFFN,
    build_norm_layer,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import SimimError
from ..geometry import Grid
from .learned_rotary import (
    EdgeCoordinates,
    check_rotary_width,
    learned_rotation,
    new_frequencies,
)
from .relative import relative_bias

FFN_TYPES = ('origin', 'swiglu', 'swiglu_fused')
ROTARY_KINDS = ('dinov3', 'eva02', 'capi')


class Places(NamedTuple):
    """The positions of the patches, for the attention.

    Args:
        rotation (Tensor, optional): (2, ..., N, D), cosine and sine.
        bias_index (Tensor, optional): (..., T, T) rows of the bias table.
        coordinates (Tensor, optional): (B or 1, T, 2), for rotary positions
            whose frequencies the blocks hold.
    """

    rotation: Tensor | None = None
    bias_index: Tensor | None = None
    coordinates: Tensor | None = None


NOWHERE = Places()


def run_block(
    recompute: bool, function: Callable[..., Tensor], *args: Any
) -> Tensor:
    """Apply a block to tokens.

    Args:
        recompute (bool): keep only its arguments for the backward pass, and
            compute the block once more there.
        function (Callable): the block.
        *args: of the block.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)


class RotaryPositions(nn.Module):
    """Axial rotary positions as DINOv3 or EVA-02 has them.

    In DINOv3 the centres of the patches have coordinates from -1 to 1 in
    both directions, and channel k rotates with channel k + D / 2. In EVA-02
    the corners have coordinates from 0 to 16, and neighbouring channels
    rotate. Neither depends on the grid. Period k of D / 4 is
    base^(4 k / D), and the rows come before the columns.

    Args:
        head_dims (int): D, a multiple of 4.
        kind (bool | str): 'dinov3' or True, or 'eva02'. Defaults to True.

    Raises:
        SimimError: if ``head_dims`` is no multiple of 4.
    """

    def __init__(self, head_dims: int, kind: bool | str = True) -> None:
        super().__init__()
        check_rotary_width(head_dims)
        self.head_dims = head_dims
        self.kind = 'dinov3' if kind is True else str(kind).lower()
        self.neighbours = self.kind == 'eva02'

    def forward(self, grid: Grid, device: torch.device) -> Tensor:
        """Return cosine and sine (2, N, D) of a grid, float32."""
        dims = self.head_dims // 4
        exponents = torch.arange(dims, device=device) / dims
        axes = [torch.arange(n, device=device) / n for n in grid]
        if self.neighbours:
            places = [16 * axis for axis in axes]
            frequencies = 10000.0**-exponents
        else:
            places = [
                2 * axis + 1 / n - 1
                for axis, n in zip(axes, grid, strict=True)
            ]
            frequencies = 2 * pi / 100.0**exponents
        grids = torch.meshgrid(*places, indexing='ij')
        placed = torch.stack(grids, dim=-1).flatten(0, 1)  # (N, 2)
        angles = (placed[..., None] * frequencies).flatten(1)  # (N, D / 2)
        if self.neighbours:
            angles = angles.repeat_interleave(2, dim=1)
        else:
            angles = angles.repeat(1, 2)
        return torch.stack([angles.cos(), angles.sin()])


def build_rotary(
    kind: bool | str | None, head_dims: int, registers: int
) -> RotaryPositions | EdgeCoordinates | None:
    """Build the places of rotary positions, None for no kind.

    Args:
        kind (bool | str, optional): one of ``ROTARY_KINDS``; True is
            'dinov3'.
        head_dims (int): D.
        registers (int): tokens that 'capi' puts along the edge.
    """
    if not kind:
        return None
    if str(kind).lower() == 'capi':
        return EdgeCoordinates(registers)
    return RotaryPositions(head_dims, kind)


def has_frequencies(rotary: nn.Module | None) -> bool:
    """Return whether each block holds frequencies of its own."""
    return isinstance(rotary, EdgeCoordinates)


def rotate(
    tokens: Tensor, rotation: Tensor, neighbours: bool = False
) -> Tensor:
    """Rotate queries or keys.

    Args:
        tokens (Tensor): (..., T, D), tokens without a place first.
        rotation (Tensor): (2, ..., N, D), cosine and sine of the patches.
        neighbours (bool): rotate neighbouring channels, not those of the two
            halves. Defaults to False.
    """
    cosine, sine = rotation.to(tokens.dtype)
    extra = tokens.shape[-2] - cosine.shape[-2]
    placed = tokens[..., extra:, :]
    if neighbours:
        first, second = placed.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-second, first], dim=-1).flatten(-2)
    else:
        first, second = placed.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    placed = placed * cosine + turned * sine
    return torch.cat([tokens[..., :extra, :], placed], dim=-2)


def add_tokens(
    vit: Any,
    with_cls_token: bool,
    num_registers: int,
    absolute_positions: bool,
) -> None:
    """Give a ViT its extra tokens and its table of positions, in place.

    Each is a parameter of zeros, or None. The table has no rows for
    registers.

    Args:
        vit (nn.Module): with ``embed_dims`` and ``patch_resolution``.
        with_cls_token (bool): see :class:`simim_plugin.vit.PlainViT`.
        num_registers (int): see there.
        absolute_positions (bool): see there.
    """
    rows, columns = vit.patch_resolution
    vit.table_extra = int(with_cls_token)
    vit.num_extra_tokens = vit.table_extra + num_registers
    count = vit.table_extra + rows * columns
    for name, tokens in (
        ('cls_token', vit.table_extra),
        ('registers', num_registers),
        ('pos_embed', count if absolute_positions else 0),
    ):
        zeros = torch.zeros(1, tokens, vit.embed_dims)
        setattr(vit, name, nn.Parameter(zeros) if tokens else None)


def extra_tokens(vit: Any, batch: int) -> list[Tensor]:
    """Return the tokens of a ViT before its patches, each (B, any, C).

    Args:
        vit (nn.Module): with ``cls_token``, ``registers`` and ``pos_embed``,
            each a parameter or None. The first row of the positions is the
            cls token's.
        batch (int): B.
    """
    tokens = []
    if vit.cls_token is not None:
        cls_token = vit.cls_token
        if vit.pos_embed is not None:
            cls_token = cls_token + vit.pos_embed[:, :1]
        tokens.append(cls_token.expand(batch, -1, -1))
    if vit.registers is not None:
        tokens.append(vit.registers.expand(batch, -1, -1))
    return tokens


def layer_depth(vit: Any, name: str, prefix: str) -> tuple[int, int]:
    """Return the depth of a parameter and the number of depths.

    As in MMPretrain's ``VisionTransformer``: 0 is the patch embedding, the
    last follows the blocks. Registers and the norm before the blocks have
    the depth of the cls token.

    Args:
        vit (nn.Module): with ``num_layers``.
        name (str): of the parameter.
        prefix (str): of the names of the ViT's parameters.
    """
    if name.removeprefix(prefix).startswith(('registers', 'pre_norm.')):
        name = f'{prefix}cls_token'
    return VisionTransformer.get_layer_depth(vit, name, prefix)


def swiglu(dims: int, ffn_type: str, hidden: int, **options: Any) -> SwiGLUFFN:
    """Build MMPretrain's SwiGLU.

    Args:
        dims (int): C.
        ffn_type (str): 'swiglu', ``hidden`` channels, or 'swiglu_fused',
            2/3 of them, rounded up to a multiple of 8.
        hidden (int): channels.
        **options: see :class:`mmpretrain.models.utils.SwiGLUFFN`.
    """
    if ffn_type == 'swiglu_fused':
        hidden = (hidden * 2 // 3 + 7) // 8 * 8
    return SwiGLUFFN(dims, hidden, **options)


def check_norms(ffn_norm: bool, ffn_type: str) -> None:
    """Refuse a norm in MLPs that have no place for it.

    Raises:
        SimimError: naming the setting.
    """
    if ffn_norm and ffn_type == 'origin':
        raise SimimError(
            "ffn_norm=True needs ffn_type='swiglu', as EVA-02 has it; set "
            'both, or leave ffn_norm out.'
        )


def query_key_norms(
    qk_norm: bool, norm_cfg: dict, head_dims: int
) -> tuple[nn.Module, nn.Module]:
    """Build the norms of queries and keys, or identities."""
    if not qk_norm:
        return nn.Identity(), nn.Identity()
    return (
        build_norm_layer(norm_cfg, head_dims),
        build_norm_layer(norm_cfg, head_dims),
    )


def queries_keys_values(joined: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Split (B, T, 3 C) to queries, keys and values (B, H, T, D)."""
    joined = joined.unflatten(2, (3, heads, -1))
    return joined.permute(2, 0, 3, 1, 4).unbind(0)


class UnboundAttention(MultiheadAttention):
    """MMPretrain's attention with a backward pass without buffers of zeros.

    MMPretrain indexes q, k and v. In the backward pass each index fills a
    buffer of all three with zeros, and the three are added; ``unbind`` stacks
    the gradients once. All numbers are the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend from (B, T, C) to (B, T, C)."""
        query, key, value = self.heads(x)
        attended = self.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.attn_drop if self.training else 0.0,
        )
        x = self.proj(attended.transpose(1, 2).flatten(2))
        x = self.out_drop(self.gamma1(self.proj_drop(x)))
        return value.squeeze(1) + x if self.v_shortcut else x

    def heads(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Project (B, T, C) to queries, keys and values (B, H, T, D)."""
        return queries_keys_values(self.qkv(tokens), self.num_heads)


def lighten(blocks: nn.Module) -> None:
    """Give MMPretrain's blocks the attention and numbers that cost less.

    In place, without any change of names, weights or results. A probability
    of DropPath that is one of NumPy's breaks the graph of ``torch.compile``.

    Args:
        blocks (nn.Module): holds :class:`TransformerEncoderLayer`.
    """
    for part in blocks.modules():
        if type(part) is MultiheadAttention:
            part.__class__ = UnboundAttention
        elif isinstance(part, DropPath):
            part.drop_prob = float(part.drop_prob)


class ExtendedAttention(UnboundAttention):
    """MMPretrain's attention with places and normalised queries and keys.

    Args:
        qk_norm (bool): normalise the queries and keys of every head.
        attn_norm (bool): normalise the result before the last map.
        neighbours (bool): see :func:`rotate`.
        bias_rows (int): rows of the table of relative position bias, 0 for
            none.
        frequencies (bool): hold the frequencies of rotary positions.
        norm_cfg (dict): of these norms.
        **kwargs: see :class:`mmpretrain.models.utils.MultiheadAttention`.
    """

    def __init__(
        self,
        *,
        qk_norm: bool,
        attn_norm: bool,
        neighbours: bool,
        bias_rows: int,
        frequencies: bool,
        norm_cfg: dict,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.neighbours = neighbours
        self.norm = (
            build_norm_layer(norm_cfg, self.embed_dims)
            if attn_norm
            else nn.Identity()
        )
        self.q_norm, self.k_norm = query_key_norms(
            qk_norm, norm_cfg, self.head_dims
        )
        self.bias_table: nn.Parameter | None = None
        if bias_rows:
            self.bias_table = nn.Parameter(
                torch.zeros(bias_rows, self.num_heads)
            )
        self.frequencies: nn.Parameter | None = None
        if frequencies:
            self.frequencies = new_frequencies(self.head_dims)

    def forward(self, tokens: Tensor, places: Places = NOWHERE) -> Tensor:
        """Attend from (B, T, C) to (B, T, C)."""
        query, key, value = self.heads(tokens)  # (B, H, T, D) each
        query, key, bias = self.place(query, key, places)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias,
            dropout_p=self.attn_drop if self.training else 0.0,
        )
        attended = attended.transpose(1, 2).flatten(2)  # (B, T, C)
        attended = self.proj(self.norm(attended))
        return self.out_drop(self.gamma1(self.proj_drop(attended)))

    def place(
        self, query: Tensor, key: Tensor, places: Places
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalise and rotate queries and keys, and return their bias.

        Args:
            query (Tensor): (B, H, T, D).
            key (Tensor): (B, H, T, D).
            places (Places): of the tokens.

        Returns:
            tuple[Tensor, Tensor, Tensor | None]: both, and
            (B or 1, H, T, T).
        """
        query, key = self.q_norm(query), self.k_norm(key)
        rotation = places.rotation
        if self.frequencies is not None and places.coordinates is not None:
            rotation = learned_rotation(
                places.coordinates[:, None], self.frequencies
            )
        if rotation is not None:
            query = rotate(query, rotation, self.neighbours)
            key = rotate(key, rotation, self.neighbours)
        if self.bias_table is None:
            return query, key, None
        assert places.bias_index is not None  # the same ViT sets both
        bias = relative_bias(self.bias_table, places.bias_index)
        # PyTorch has no fused attention for a mask of three dimensions.
        bias = bias.reshape(-1, *bias.shape[-3:])
        return query, key, bias.to(query.dtype)


class ExtendedLayer(TransformerEncoderLayer):
    """MMPretrain's layer with the attention above and SwiGLU.

    Args:
        qk_norm, attn_norm, neighbours, bias_rows, frequencies: see
            :class:`ExtendedAttention`.
        ffn_type (str): 'origin', or one of :func:`swiglu`.
        ffn_norm (bool): normalise the hidden channels of SwiGLU.
        **kwargs: see MMPretrain's ``TransformerEncoderLayer``.
    """

    def __init__(
        self,
        *,
        qk_norm: bool = False,
        attn_norm: bool = False,
        neighbours: bool = False,
        bias_rows: int = 0,
        frequencies: bool = False,
        ffn_type: str = 'origin',
        ffn_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        drop_path = dict(
            type='DropPath', drop_prob=kwargs.get('drop_path_rate', 0.0)
        )
        scale = kwargs.get('layer_scale_init_value', 0.0)
        self.attn = ExtendedAttention(
            qk_norm=qk_norm,
            attn_norm=attn_norm,
            neighbours=neighbours,
            bias_rows=bias_rows,
            frequencies=frequencies,
            norm_cfg=kwargs['norm_cfg'],
            embed_dims=self.embed_dims,
            num_heads=kwargs['num_heads'],
            attn_drop=kwargs.get('attn_drop_rate', 0.0),
            proj_drop=kwargs.get('drop_rate', 0.0),
            dropout_layer=drop_path,
            qkv_bias=kwargs.get('qkv_bias', True),
            layer_scale_init_value=scale,
        )
        if ffn_type != 'origin':
            self.ffn = swiglu(
                self.embed_dims,
                ffn_type,
                kwargs['feedforward_channels'],
                layer_scale_init_value=scale,
                dropout_layer=drop_path,
                norm_cfg=kwargs['norm_cfg'] if ffn_norm else None,
            )

    def forward(self, tokens: Tensor, places: Places = NOWHERE) -> Tensor:
        """Apply the layer to (B, T, C)."""
        tokens = tokens + self.attn(self.ln1(tokens), places)
        return self.ffn(self.ln2(tokens), identity=tokens)
