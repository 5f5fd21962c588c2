"""The encoders that packaged configs evaluate."""

from __future__ import annotations

from typing import NamedTuple

from ..checkpoint import Weights
from ..checkpoint.encoders import BASE, HUGE, LARGE, MICRO, TINY
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


ENCODERS = {
    (BASE.width, BASE.depth, 16): Encoder('in1k', 'base'),
    (LARGE.width, LARGE.depth, 16): Encoder(
        'in1k', 'large', 'large-p16_ft-8xb128-amp-coslr-50e_in1k'
    ),
    (HUGE.width, HUGE.depth, 14): Encoder(
        'in1k', 'huge', 'huge-p14_ft-8xb128-amp-coslr-50e_in1k'
    ),
    (TINY.width, TINY.depth, 4): Encoder('cifar10', 'deit-tiny'),
    (MICRO.width, MICRO.depth, 4): Encoder('cifar10', MICRO.arch),
    (MICRO.width, MICRO.depth, 8): Encoder('demo', MICRO.arch),
}
"""Encoders by width, number of blocks and patch size."""


def find_encoder(weights: Weights) -> Encoder:
    """Return the encoder that the shapes of weights belong to.

    Raises:
        CheckpointError: if the weights have no patch embedding.
        SimimError: if no packaged config evaluates such an encoder.
    """
    width, depth, patch = weights.shape()
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
