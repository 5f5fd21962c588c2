"""One plain ViT with the options of published encoders."""

from ..environment import leave_out_multimodal

leave_out_multimodal()

# ruff: noqa: E402
from .arches import ARCHES, KnownEncoder, known_encoder
from .encoder import PlainViT, check_choice, resize_table
from .layers import (
    ExtendedAttention,
    ExtendedLayer,
    Places,
    RotaryPositions,
    UnboundAttention,
    lighten,
)
