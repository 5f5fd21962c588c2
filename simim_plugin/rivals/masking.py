"""A learned token in place of masked patches, as in BEiT and iBOT."""

from __future__ import annotations

from torch import Tensor

from ..models import SiameseIMViT


def masked_tokens(
    backbone: SiameseIMViT, token: Tensor, view: Tensor, mask: Tensor
) -> Tensor:
    """Encode a view whose masked patches are one token.

    Args:
        backbone (SiameseIMViT): of C channels and E extra tokens.
        token (Tensor): (1, 1, C).
        view (Tensor): (B, 3, H, W).
        mask (Tensor): (B, N) bool, True on masked patches.

    Returns:
        Tensor: (B, E + N, C).
    """
    patches, grid = backbone.patch_embed(view)
    patches = patches.where(~mask[..., None], token.to(patches.dtype))
    if backbone.pos_embed is not None:
        patches = patches + backbone._positions(grid)
    return backbone.encode(patches, *backbone.places(grid))
