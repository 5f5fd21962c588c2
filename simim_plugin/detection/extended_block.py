"""A block of ViTDet for the encoders of other methods.

Extra tokens (a cls token, registers) have no window: every patch attends to
them, and they attend to all patches. No patch attends to the padding of the
windows at the border.

Shape key: B batch, H x W patches, N = H W, E extra tokens, T = E + N, C
channels, D channels of a head, w windows in an image, n patches in a window.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.vit_sam import (
    TransformerEncoderLayer,
    window_partition,
    window_unpartition,
)
from mmpretrain.models.utils import LayerScale, build_norm_layer
from torch import Tensor, nn

from ..geometry import Grid
from ..vit.layers import has_frequencies, query_key_norms, rotate, swiglu
from ..vit.learned_rotary import learned_rotation, new_frequencies
from ..vit.relative import (
    PLACELESS,
    bias_index,
    bias_rows,
    relative_bias,
    resize_bias,
)
from .attention import merge_heads, split_heads, with_relative_positions

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each (B or B w, heads, tokens, D)."""

_NEVER = -1e4
"""A logit that leaves no weight, and that half precision holds."""


class BiasPlaces(NamedTuple):
    """Indices into the tables of relative position bias.

    Args:
        table_grid (tuple[int, int]): rows and columns of the tables' patches.
        indices (dict[int, Tensor]): by the side of a window, 0 for the whole
            image: (n, E + n) rows of its table, one for each patch and what
            it attends to.
    """

    table_grid: Grid
    indices: dict[int, Tensor]


class ImagePlaces(NamedTuple):
    """The positions of an image's patches, for the attention.

    Args:
        rotation (Tensor, optional): (2, N, D) of rotary positions.
        coordinates (Tensor, optional): (1, T, 2), for rotary positions whose
            frequencies the blocks hold, without tokens that have no place.
        bias (BiasPlaces, optional): of the tables of relative position bias.
    """

    rotation: Tensor | None = None
    coordinates: Tensor | None = None
    bias: BiasPlaces | None = None


def image_places(vit: Any, grid: Grid, device: torch.device) -> ImagePlaces:
    """Return the places of an image for the blocks of a ``ViTSAM``.

    Args:
        vit (ViTSAM): with ``rotary``, ``num_extra_tokens`` and layers of
            :func:`extend_layers`.
        grid (tuple[int, int]): rows and columns of the image's patches.
        device (torch.device): of the places.
    """
    rotary = {}
    if vit.rotary is not None:
        learned = has_frequencies(vit.rotary)
        name = 'coordinates' if learned else 'rotation'
        rotary = {name: vit.rotary(grid, device)}
    if vit.layers[0].attn.bias_table is None:
        return ImagePlaces(**rotary)
    extra = vit.num_extra_tokens
    indices = {
        side: bias_index(_area(side, grid), extra, device)[extra:]
        for side in {layer.window_size for layer in vit.layers}
    }
    bias = BiasPlaces(vit.patch_resolution, indices)
    return ImagePlaces(**rotary, bias=bias)


def _area(side: int, grid: Grid) -> Grid:
    """Return the grid of what a patch attends to: its window, or all."""
    return (side, side) if side else (grid[0], grid[1])


def extend_layers(
    vit: Any,
    norm_cfg: dict,
    scale: float,
    qk_norm: bool,
    attn_norm: bool,
    ffn_type: str,
    ffn_norm: bool,
    relative_bias: bool,
) -> None:
    """Give the layers of a ``ViTSAM`` the parts of other encoders, in place.

    Args:
        vit (ViTSAM): the backbone, with ``rotary``.
        norm_cfg (dict): of the norms below.
        scale (float): LayerScale at the start, 0 for none.
        qk_norm, attn_norm, ffn_type, ffn_norm: of
            :class:`simim_plugin.vit.ExtendedLayer`.
        relative_bias (bool): give each layer a table of relative position
            bias, of the grid of the pretraining images.
    """
    hidden = vit.arch_settings['feedforward_channels']
    for layer in vit.layers:
        attn = layer.attn
        head_dims = vit.embed_dims // attn.num_heads
        attn.q_norm, attn.k_norm = query_key_norms(
            qk_norm, norm_cfg, head_dims
        )
        attn.norm = (
            build_norm_layer(norm_cfg, vit.embed_dims)
            if attn_norm
            else IDENTITY
        )
        attn.neighbours = getattr(vit.rotary, 'neighbours', False)
        attn.bias_table = None
        if relative_bias:
            rows = bias_rows(vit.patch_resolution)
            table = torch.zeros(rows, attn.num_heads)
            attn.bias_table = nn.Parameter(table)
        attn.frequencies = None
        if has_frequencies(vit.rotary):
            attn.frequencies = new_frequencies(head_dims)
        attn.gamma1 = LayerScale(vit.embed_dims, scale) if scale else IDENTITY
        _extend_ffn(
            layer, hidden, scale, ffn_type, norm_cfg if ffn_norm else None
        )


IDENTITY = nn.Identity()


def _extend_ffn(
    layer: TransformerEncoderLayer,
    hidden: int,
    scale: float,
    ffn_type: str,
    norm_cfg: dict | None,
) -> None:
    """Give the MLP of a layer its gates and its LayerScale, in place."""
    dims, drop_path = layer.embed_dims, layer.ffn.dropout_layer
    if ffn_type != 'origin':
        layer.ffn = swiglu(
            dims,
            ffn_type,
            hidden,
            layer_scale_init_value=scale,
            norm_cfg=norm_cfg,
        )
        layer.ffn.dropout_layer = drop_path
    elif scale:
        layer.ffn.gamma2 = LayerScale(dims, scale)


def extended_block(
    layer: TransformerEncoderLayer,
    tokens: Tensor,
    grid: Grid,
    places: ImagePlaces,
) -> Tensor:
    """Apply a transformer block to tokens (B, T, C), in windows if set.

    Args:
        layer (TransformerEncoderLayer): of :func:`extend_layers`.
        tokens (Tensor): (B, T, C), the extra ones first.
        grid (tuple[int, int]): H and W.
        places (ImagePlaces): of the patches.
    """
    normed = layer.ln1(tokens)
    extra = tokens.shape[1] - grid[0] * grid[1]
    patches = normed[:, extra:].unflatten(1, grid)  # (B, H, W, C)
    attended = attend(layer, normed[:, :extra], patches, places)
    attended = layer.attn.gamma1(attended)
    tokens = tokens + layer.ffn.dropout_layer(attended)
    return layer.ffn(layer.ln2(tokens), identity=tokens)


def attend(
    layer: TransformerEncoderLayer,
    extra: Tensor,
    patches: Tensor,
    places: ImagePlaces,
) -> Tensor:
    """Attend from extra tokens (B, E, C) and patches (B, H, W, C).

    Returns:
        Tensor: (B, T, C).
    """
    attn, side = layer.attn, layer.window_size
    size = patches.shape[1], patches.shape[2]
    windows, padded = patches, size
    if side:
        windows, padded = window_partition(patches, side)
    query, key, value = _heads(attn, windows)  # (B w, heads, n, D)
    rotation, of_edge = _rotations(attn, places, size[0] * size[1])
    if rotation is not None:
        rotation = _in_windows(rotation.unflatten(1, size), side)
        rotation = rotation.unflatten(0, (2, -1))  # (2, w, n, D)
        rotation = rotation.repeat(1, len(extra), 1, 1)[:, :, None]
        query, key = (
            rotate(part, rotation, attn.neighbours) for part in (query, key)
        )
    of_extra = None
    if extra.shape[1]:  # an ONNX graph cannot have tensors of no elements
        of_extra = _heads(attn, extra[:, None])
        if of_edge is not None:
            first, second, last = of_extra
            of_extra = rotate(first, of_edge), rotate(second, of_edge), last
    attended = _attend_patches(
        layer, (query, key, value), of_extra, size, places.bias
    )
    if side:
        attended = window_unpartition(attended, side, padded, size)
    attended = attended.flatten(1, 2)  # (B, N, C)
    if of_extra is None:
        return attended
    if side:
        key, value = (_whole(x, side, padded, size) for x in (key, value))
    extra_query, extra_key, extra_value = of_extra
    count = extra.shape[1]
    first = _fused(
        extra_query * attn.scale,
        torch.cat([extra_key, key], dim=2),
        torch.cat([extra_value, value], dim=2),
        _extra_bias(attn, count, attended.shape[1]),
    )
    first = merge_heads(attn, first, (1, count))[:, 0]
    return torch.cat([first, attended], dim=1)


def _attend_patches(
    layer: TransformerEncoderLayer,
    of_patches: Heads,
    of_extra: Heads | None,
    size: tuple[int, int],
    bias: BiasPlaces | None,
) -> Tensor:
    """Attend from the patches of each window, or of the image.

    Args:
        layer (TransformerEncoderLayer): of :func:`extend_layers`.
        of_patches (tuple[Tensor, Tensor, Tensor]): q, k and v (B w, heads,
            n, D).
        of_extra (tuple[Tensor, Tensor, Tensor], optional): those of the
            extra tokens, (B, heads, E, D).
        size (tuple[int, int]): H and W.
        bias (BiasPlaces, optional): of the tables.

    Returns:
        Tensor: (B w, rows, columns, C).
    """
    attn, side = layer.attn, layer.window_size
    area = _area(side, size)
    query, key, value = of_patches
    dims = key.shape[-1]
    query, key = with_relative_positions(attn, query, key, *area)
    if side and (size[0] % side or size[1] % side):
        query, key = _without_filling(query, key, side, size)
    if of_extra is not None:
        _, extra_key, extra_value = of_extra
        extra_key = F.pad(extra_key, (0, key.shape[-1] - dims))
        key, value = _before(extra_key, key), _before(extra_value, value)
    attended = _fused(query, key, value, _patch_bias(attn, bias, area, side))
    return merge_heads(attn, attended, area)


def _rotations(
    attn: Any, places: ImagePlaces, patches: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return the rotation (2, N, D) of patches, and that of registers."""
    if places.coordinates is None:
        return places.rotation, None
    both = learned_rotation(places.coordinates[0], attn.frequencies)
    return both[:, -patches:], both[:, :-patches]


def _in_windows(image: Tensor, side: int) -> Tensor:
    """Return what an image (B, H, W, C) has in each window (B w, n, C)."""
    if side:
        image, _ = window_partition(image, side)
    return image.flatten(1, 2)


def _without_filling(
    query: Tensor, key: Tensor, side: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Widen queries and keys (B w, heads, n, D) by a logit of each key.

    It leaves no weight to keys outside the image. A mask would do, but some
    fused kernels take none.
    """
    inside = _in_windows(key.new_ones(1, *size, 1), side)  # (w, n, 1)
    outside = (1 - inside) * _NEVER
    outside = outside.repeat(len(key) // len(outside), 1, 1)[:, None]
    outside = outside.expand(-1, key.shape[1], -1, -1)
    ones = torch.ones_like(query[..., :1])
    return torch.cat([query, ones], dim=-1), torch.cat([key, outside], dim=-1)


def _patch_bias(
    attn: Any, bias: BiasPlaces | None, area: Grid, side: int
) -> Tensor | None:
    """Return the bias (1, heads, n, E + n) of what patches attend to."""
    if bias is None:
        return None
    table = resize_bias(attn.bias_table, bias.table_grid, area)
    return relative_bias(table, bias.indices[side])[None]


def _extra_bias(attn: Any, extra: int, patches: int) -> Tensor | None:
    """Return the bias (1, heads, E, T) of what extra tokens attend to."""
    if attn.bias_table is None:
        return None
    to_patch, _, to_extra = attn.bias_table[-PLACELESS:, :, None, None]
    return torch.cat(
        [
            to_extra.expand(-1, extra, extra),
            to_patch.expand(-1, extra, patches),
        ],
        dim=2,
    )[None]


def _heads(attn: Any, tokens: Tensor) -> Heads:
    """Project tokens (B, H, W, C) to q, k and v, each (B, heads, N, D)."""
    query, key, value = split_heads(attn, tokens)
    return attn.q_norm(query), attn.k_norm(key), value


def _before(extra: Tensor, parts: Tensor) -> Tensor:
    """Put extra tokens (B, ...) before those of each window (B w, ...)."""
    copies = len(parts) // len(extra)
    return torch.cat([extra.repeat_interleave(copies, dim=0), parts], dim=2)


def _fused(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
) -> Tensor:
    """Attend with scaled queries; keys may be wider than values."""
    # Fused kernels need values as wide as keys.
    wide = F.pad(value, (0, key.shape[-1] - value.shape[-1]))
    attended = F.scaled_dot_product_attention(
        query,
        key,
        wide,
        attn_mask=None if bias is None else bias.to(query.dtype),
        scale=1.0,
    )
    return attended[..., : value.shape[-1]]


def _whole(
    part: Tensor, side: int, padded: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Join keys or values (B w, heads, n, D) to (B, heads, N, D)."""
    heads = part.shape[1]
    part = part.transpose(1, 2).flatten(2).unflatten(1, (side, side))
    part = window_unpartition(part, side, padded, size)  # (B, H, W, C)
    return part.flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)
