"""The known plain ViTs, by the shapes of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class KnownEncoder(NamedTuple):
    """A plain ViT whose MLPs are four times as wide as its tokens.

    Args:
        name (str): as in the names of configs and of timm's models.
        width (int): channels of a token.
        depth (int): number of blocks.
        heads (int): attention heads. They leave no trace in the weights.
    """

    name: str
    width: int
    depth: int
    heads: int

    @property
    def arch(self) -> dict[str, int]:
        """The ``arch`` of MMPretrain's ``VisionTransformer``."""
        return dict(
            embed_dims=self.width,
            num_layers=self.depth,
            num_heads=self.heads,
            feedforward_channels=4 * self.width,
        )


MICRO = KnownEncoder('micro', 128, 4, 4)
TINY = KnownEncoder('tiny', 192, 12, 3)
SMALL = KnownEncoder('small', 384, 12, 6)
BASE = KnownEncoder('base', 768, 12, 12)
LARGE = KnownEncoder('large', 1024, 24, 16)
HUGE = KnownEncoder('huge', 1280, 32, 16)
GIANT = KnownEncoder('giant', 1536, 40, 24)
_STANDARD = (TINY, SMALL, BASE, LARGE, HUGE, GIANT)

ARCHES = {vit.name: vit.arch for vit in _STANDARD}
"""The ``arch`` of each name, the same in all three backbones."""


def arch_name(arch: Mapping[str, int]) -> str | None:
    """Return the name of an ``arch`` in ``ARCHES``, None if it has none."""
    return next((name for name, one in ARCHES.items() if one == arch), None)


def known_encoder(width: int, depth: int) -> KnownEncoder | None:
    """Return the known ViT that weights belong to, or None.

    The width alone identifies a standard ViT, of any depth. Only this
    package has the micro ViT, so its depth has to match as well.
    """
    if (width, depth) == (MICRO.width, MICRO.depth):
        return MICRO
    return next((vit for vit in _STANDARD if vit.width == width), None)
