"""The encoders that packaged configs evaluate."""

from __future__ import annotations

from typing import NamedTuple

from ..checkpoint import Weights
from ..errors import SimimError


class Encoder(NamedTuple):
    """An encoder that packaged configs evaluate.

    Args:
        scale (str): key of ``commands.protocols.SCALES``.
        arch (str | dict): of the backbone.
        finetune (str, optional): name of its own fine-tuning config.
    """

    scale: str
    arch: str | dict[str, int]
    finetune: str | None = None


_SMALL = dict(
    embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512
)
ENCODERS = {
    (768, 12, 16): Encoder('in1k', 'base'),
    (1024, 24, 16): Encoder(
        'in1k', 'large', 'large-p16_ft-8xb128-amp-coslr-50e_in1k'
    ),
    (1280, 32, 14): Encoder(
        'in1k', 'huge', 'huge-p14_ft-8xb128-amp-coslr-50e_in1k'
    ),
    (192, 12, 4): Encoder('cifar10', 'deit-tiny'),
    (128, 4, 4): Encoder('cifar10', _SMALL),
    (128, 4, 8): Encoder('demo', _SMALL),
}
"""Encoders by width, number of blocks and patch size."""


def find_encoder(weights: Weights) -> Encoder:
    """Return the encoder that the shapes of weights belong to.

    Raises:
        CheckpointError: if the weights have no patch embedding.
        SimimError: if no packaged config evaluates such an encoder.
    """
    width, patch = weights.patches()
    blocks = weights.part('backbone.layers')
    depth = sum(name.endswith('.attn.qkv.weight') for name in blocks)
    if (width, depth, patch) not in ENCODERS:
        known = ', '.join(f'{w} x {d} / {p}' for w, d, p in ENCODERS)
        raise SimimError(
            f'The encoder in {weights.file} has width {width}, {depth} '
            f'blocks and patches of {patch} px, which no packaged config is '
            f'for (width x blocks / patch: {known}); inherit one of '
            'configs/classification and run it by tools/train.py or '
            'tools/test.py.'
        )
    return ENCODERS[width, depth, patch]
