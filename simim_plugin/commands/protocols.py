"""The configs that evaluate each encoder, and the figures of the paper."""

from __future__ import annotations

from typing import NamedTuple

from ..checkpoint import Weights
from ..checkpoint.encoders import BASE, HUGE, LARGE, MICRO, SMALL, TINY
from ..errors import SimimError

FROZEN = ('knn', 'linear', 'logistic')
TASKS = (*FROZEN, 'finetune', 'robustness')


class Scale(NamedTuple):
    """The configs that evaluate encoders of one data set.

    Args:
        data (str): folder where the configs expect the images.
        configs (dict[str, tuple[str, ...]]): packaged names, by task.
        layout (str): required content of the folder.
    """

    data: str
    configs: dict[str, tuple[str, ...]]
    layout: str


PREFIX = 'siamese_im_vit-'
SCALES = {
    'in1k': Scale(
        'data/imagenet',
        {
            'knn': ('base-p16_knn_in1k',),
            'linear': ('base-p16_linear-8xb2048-amp-coslr-90e_in1k',),
            'logistic': ('base-p16_logistic_in1k-1pct',),
            'finetune': ('base-p16_ft-8xb128-amp-coslr-100e_in1k',),
            'robustness': tuple(
                f'base-p16_in1k-{name}' for name in ('a', 'r', 'sketch', 'c')
            ),
        },
        'train/WNID/*.JPEG, val/WNID/*.JPEG and, for logistic, 1percent.txt',
    ),
    'cifar10': Scale(
        'data/cifar10',
        {
            'knn': ('tiny-p4_knn_cifar10',),
            'linear': ('tiny-p4_linear-1xb512-amp-coslr-50e_cifar10',),
            'logistic': ('tiny-p4_logistic_cifar10',),
            'finetune': ('tiny-p4_ft-1xb128-amp-coslr-50e_cifar10',),
            'robustness': ('tiny-p4_cifar10-c',),
        },
        'cifar-10-batches-py/, or train/CLASS/* and val/CLASS/*',
    ),
    'demo': Scale(
        'data/demo',
        {
            'knn': ('micro-p8_knn_demo',),
            'linear': ('micro-p8_linear-1xb64-amp-coslr-20e_demo',),
            'logistic': ('micro-p8_logistic_demo',),
            'finetune': ('micro-p8_ft-1xb64-amp-coslr-10e_demo',),
            'robustness': ('micro-p8_demo-c',),
        },
        'train/CLASS/*.jpg and val/CLASS/*.jpg (tools/make_demo_data.py)',
    ),
}

PAPER = {
    'linear: accuracy/top1': 78.0,
    'logistic: logistic/top1': 65.1,
    'finetune: accuracy/top1': 84.1,
    'robustness: imagenet-a/top1_200way': 43.8,
    'robustness: imagenet-r/top1_200way': 52.5,
    'robustness: imagenet-sketch/top1': 38.3,
    'robustness: imagenet-c/100-mCE': 57.1,
    'robustness: average': 47.9,
}
"""Tables 1 and 2 of the paper: ViT-B/16, 1600 epochs."""


class Encoder(NamedTuple):
    """An encoder that packaged configs evaluate.

    Args:
        scale (str): key of ``SCALES``.
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
    (SMALL.width, SMALL.depth, 16): Encoder(
        'in1k', SMALL.arch, 'small-p16_ft-8xb128-amp-coslr-100e_in1k'
    ),
    (TINY.width, TINY.depth, 16): Encoder(
        'in1k', TINY.arch, 'tiny-p16_ft-8xb128-amp-coslr-100e_in1k'
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
