"""A block of ViTDet for the encoders of other methods.

Extra tokens (a cls token, registers) have no window: every patch attends to
them, and they attend to all patches.

Shape key: B batch, H x W patches, N = H W, E extra tokens, T = E + N, C
channels, D channels of a head, w windows in an image, n patches in a window.
"""

from __future__ import annotations

from typing import Any

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
from ..vit.layers import query_key_norms, rotate, swiglu
from .attention import merge_heads, split_heads, with_relative_positions


def extend_layers(
    vit: Any,
    norm_cfg: dict,
    scale: float,
    qk_norm: bool,
    attn_norm: bool,
    ffn_type: str,
    ffn_norm: bool,
) -> None:
    """Give the layers of a ``ViTSAM`` the parts of other encoders, in place.

    Args:
        vit (ViTSAM): the backbone, with ``rotary``.
        norm_cfg (dict): of the norms below.
        scale (float): LayerScale at the start, 0 for none.
        qk_norm, attn_norm, ffn_type, ffn_norm: of
            :class:`simim_plugin.vit.ExtendedLayer`.
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
        attn.gamma1 = LayerScale(vit.embed_dims, scale) if scale else IDENTITY
        if ffn_type != 'origin':
            drop_path = layer.ffn.dropout_layer
            layer.ffn = swiglu(
                vit.embed_dims,
                ffn_type,
                hidden,
                layer_scale_init_value=scale,
                norm_cfg=norm_cfg if ffn_norm else None,
            )
            layer.ffn.dropout_layer = drop_path
        elif scale:
            layer.ffn.gamma2 = LayerScale(vit.embed_dims, scale)


IDENTITY = nn.Identity()


def extended_block(
    layer: TransformerEncoderLayer,
    tokens: Tensor,
    grid: Grid,
    rotation: Tensor | None,
) -> Tensor:
    """Apply a transformer block to tokens (B, T, C), in windows if set.

    Args:
        layer (TransformerEncoderLayer): of :func:`extend_layers`.
        tokens (Tensor): (B, T, C), the extra ones first.
        grid (tuple[int, int]): H and W.
        rotation (Tensor, optional): (2, N, D) of rotary positions.
    """
    normed = layer.ln1(tokens)
    extra = tokens.shape[1] - grid[0] * grid[1]
    patches = normed[:, extra:].unflatten(1, grid)  # (B, H, W, C)
    attended = attend(layer, normed[:, :extra], patches, rotation)
    attended = layer.attn.gamma1(attended)
    tokens = tokens + layer.ffn.dropout_layer(attended)
    return layer.ffn(layer.ln2(tokens), identity=tokens)


def attend(
    layer: TransformerEncoderLayer,
    extra: Tensor,
    patches: Tensor,
    rotation: Tensor | None,
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
    extra_query, extra_key, extra_value = _heads(attn, extra[:, None])
    if rotation is not None:
        places = rotation.unflatten(1, size)  # (2, H, W, D)
        if side:
            places, _ = window_partition(places, side)
        places = places.flatten(1, 2).unflatten(0, (2, -1))  # (2, w, n, D)
        places = places.repeat(1, len(extra), 1, 1)[:, :, None]
        query = rotate(query, places, attn.neighbours)
        key = rotate(key, places, attn.neighbours)

    copies = len(windows) // len(extra)  # w
    wide_query, wide_key = with_relative_positions(
        attn, query, key, *windows.shape[1:3]
    )
    distances = wide_key.shape[-1] - key.shape[-1]
    attended = _fused(
        wide_query,
        _before(F.pad(extra_key, (0, distances)), wide_key, copies),
        _before(extra_value, value, copies),
    )
    attended = merge_heads(
        attn, attended, (windows.shape[1], windows.shape[2])
    )
    if side:
        attended = window_unpartition(attended, side, padded, size)
        key, value = (
            _whole(part, side, padded, size) for part in (key, value)
        )
    of_extra = _fused(
        extra_query * attn.scale,
        torch.cat([extra_key, key], dim=2),
        torch.cat([extra_value, value], dim=2),
    )
    of_extra = merge_heads(attn, of_extra, (1, extra.shape[1]))[:, 0]
    return torch.cat([of_extra, attended.flatten(1, 2)], dim=1)


def _heads(attn: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project tokens (B, H, W, C) to q, k and v, each (B, heads, N, D)."""
    query, key, value = split_heads(attn, tokens)
    return attn.q_norm(query), attn.k_norm(key), value


def _before(extra: Tensor, parts: Tensor, copies: int) -> Tensor:
    """Put extra tokens (B, ...) before those of each window (B w, ...)."""
    return torch.cat([extra.repeat_interleave(copies, dim=0), parts], dim=2)


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with scaled queries; keys may be wider than values."""
    # Fused kernels need values as wide as keys.
    wide = F.pad(value, (0, key.shape[-1] - value.shape[-1]))
    attended = F.scaled_dot_product_attention(query, key, wide, scale=1.0)
    return attended[..., : value.shape[-1]]


def _whole(
    part: Tensor, side: int, padded: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Join keys or values (B w, heads, n, D) to (B, heads, N, D)."""
    heads = part.shape[1]
    part = part.transpose(1, 2).flatten(2).unflatten(1, (side, side))
    part = window_unpartition(part, side, padded, size)  # (B, H, W, C)
    return part.flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)
