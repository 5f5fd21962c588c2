"""Attention with decomposed relative positions (Li et al. 2022).

Shape key: B batch, H x W patches, N = H W, C channels, D channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.vit_sam import Attention, get_rel_pos
from torch import Tensor


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
    if hasattr(attn, 'norm'):  # EVA-02's
        attended = attn.norm(attended)
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
