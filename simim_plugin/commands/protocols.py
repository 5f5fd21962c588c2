"""The configs that evaluate each encoder, and the figures of the paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.config import Config

from ..checkpoint import Weights
from ..checkpoint.families import PLAIN, Family
from ..config_files import config_path
from ..errors import SimimError
from ..vit.arches import HUGE, LARGE, MICRO, SMALL, TINY, arch_name
from ..vit.norm import FINAL_NORM

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
        finetune (str, optional): name of its own fine-tuning config.
    """

    scale: str = 'in1k'
    finetune: str | None = None


ENCODERS = {
    (LARGE.width, LARGE.depth, 16): Encoder(
        finetune='large-p16_ft-8xb128-amp-coslr-50e_in1k'
    ),
    (HUGE.width, HUGE.depth, 14): Encoder(
        finetune='huge-p14_ft-8xb128-amp-coslr-50e_in1k'
    ),
    (SMALL.width, SMALL.depth, 16): Encoder(
        finetune='small-p16_ft-8xb128-amp-coslr-100e_in1k'
    ),
    (TINY.width, TINY.depth, 16): Encoder(
        finetune='tiny-p16_ft-8xb128-amp-coslr-100e_in1k'
    ),
    (TINY.width, TINY.depth, 4): Encoder('cifar10'),
    (MICRO.width, MICRO.depth, 4): Encoder('cifar10'),
    (MICRO.width, MICRO.depth, 8): Encoder('demo'),
}
"""Encoders by width, number of blocks and patch size. All others are
evaluated by the configs of a ViT-B on ImageNet."""


def find_encoder(weights: Weights) -> Encoder:
    """Return the encoder that the shapes of weights belong to.

    Raises:
        CheckpointError: if the weights have no patch embedding.
    """
    return ENCODERS.get(weights.shape(), Encoder())


def classes_of(name: str) -> int | None:
    """Return the classes of the head of a packaged config, if it has one."""
    config = Config.fromfile(config_path(f'{name}.py'))
    return (config.model.get('head') or {}).get('num_classes')


def fit_model(
    config: Config, task: str, options: dict[str, Any], family: Family
) -> None:
    """Adapt the model of a packaged config to an encoder, in place.

    Frozen encoders are read as their authors do: with their final norm, and
    kNN and linear probing with their pooling. All tasks take their mean and
    std, also to fill erased pixels, and their crop of test images.

    Args:
        config (Config): of a task.
        task (str): one of ``TASKS``.
        options (dict[str, Any]): of the encoder.
        family (Family): of the encoder.

    Raises:
        SimimError: if the images are no whole number of patches.
    """
    model, options = config.model, dict(options)
    backbone, arch = model.backbone, options['arch']
    size, patch = backbone.img_size, options['patch_size']
    if size % patch:
        raise SimimError(
            f'{task} reads images of {size} px, which are no whole number of '
            f'patches of {patch} px; inherit the config and choose another '
            'size.'
        )
    options['arch'] = arch_name(arch) or arch
    if task not in FROZEN:  # fine-tuning has its own norm
        for key in FINAL_NORM:
            options.pop(key, None)
    backbone.update(options)
    if model.get('head') is not None:
        model.head.in_channels = arch['embed_dims']
    if 'frozen_stages' in backbone:
        backbone.frozen_stages = arch['num_layers']
    has_cls = options.get('with_cls_token', True)
    if task == 'knn':
        config.test_cfg.pool = family.pool
    elif task == 'logistic' and (family.pool == 'cls' or not has_cls):
        config.test_cfg.pool = family.pool if has_cls else 'mean'
    elif task == 'linear' and family.pool == 'cls':
        backbone.out_type = 'cls_token'
    _prepare(config, family, size)


def _prepare(config: Config, family: Family, size: int) -> None:
    """Prepare images as a family does, where it is not our way."""
    other = (family.mean, family.std) != (PLAIN.mean, PLAIN.std)
    if other:
        config.model.data_preprocessor.mean = [*family.mean]
        config.model.data_preprocessor.std = [*family.std]
    for part in dictionaries(config._cfg_dict, 'type'):
        if part['type'] == 'torchvision/Resize':
            if family.crop != PLAIN.crop and size == 224:
                part['size'] = round(size / family.crop)
            if family.interpolation != PLAIN.interpolation:
                part['interpolation'] = family.interpolation
        elif other and part['type'] == 'RandomErasing':  # BGR
            part['fill_color'] = [*family.mean[::-1]]
            part['fill_std'] = [*family.std[::-1]]
        elif other and part['type'] == 'RandAugment':
            levels = [round(level) for level in family.mean[::-1]]
            part['hparams'] = dict(part['hparams'], pad_val=levels)


def dictionaries(node: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield every dictionary with a key in ``node`` and below."""
    if isinstance(node, dict):
        if key in node:
            yield node
        node = [*node.values()]
    if isinstance(node, list | tuple):
        for part in node:
            yield from dictionaries(part, key)
