"""Seconds and peak memory of ViT-B at 512 px.

One block's attention, ours beside MMSegmentation's, in training and in
inference; or one training step of the whole UPerNet::

    python -m simim_plugin.benchmarks.segmentation
    python -m simim_plugin.benchmarks.segmentation --step

Shape key: B batch, T tokens, C channels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.backbones.mae import MAEAttention
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from ..config_files import config_path
from ..segmentation.backbone import RelativeBiasAttention
from .timing import (
    DEVICE,
    median_seconds,
    peak_megabytes,
    print_costs,
    token_pass,
)

CONFIG = 'siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512.py'
KINDS = {'MMSegmentation': MAEAttention, 'ours': RelativeBiasAttention}


def attention(
    kind: str, training: bool, batch: int, bf16: bool
) -> Callable[[], object]:
    """One block's attention over 32 x 32 patches and the cls token.

    Args:
        kind (str): a key of ``KINDS``.
        training (bool): whether to compute gradients too.
        batch (int): images.
        bf16 (bool): under autocast.

    Returns:
        Callable[[], object]: runs it once.
    """
    module = KINDS[kind](768, 12, (32, 32), bias=True).to(DEVICE)
    shape = (batch, 1 + 32 * 32, 768)  # (B, T, C)
    return token_pass(module, shape, bf16, training)


def training_step(
    name: str, batch: int, bf16: bool
) -> Callable[[], dict[str, torch.Tensor]]:
    """One optimizer step of a packaged config, on random images.

    Args:
        name (str): the config.
        batch (int): images, of the config's crop size.
        bf16 (bool): under autocast.

    Returns:
        Callable[[], dict[str, Tensor]]: runs it once, returns the losses.
    """
    config = Config.fromfile(config_path(name))
    init_default_scope('mmseg')
    model = MODELS.build(config.model).to(DEVICE)
    kind = dict(type='AutocastOptimWrapper', on_cpu=True)
    config.optim_wrapper.update(kind if bf16 else dict(type='OptimWrapper'))
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    size, classes = config.crop_size, config.model.decode_head.num_classes
    data = dict(
        inputs=[
            torch.randint(256, (3, *size), dtype=torch.uint8)
            for _ in range(batch)
        ],
        data_samples=[
            SegDataSample(
                gt_sem_seg=PixelData(data=torch.randint(classes, (1, *size)))
            )
            for _ in range(batch)
        ],
    )
    return lambda: model.train_step(data, wrapper)


def from_nothing(
    name: str, batch: int, bf16: bool
) -> Callable[[], dict[str, torch.Tensor]]:
    """A step with all that it needs: weights, gradients, AdamW's state."""
    return lambda: training_step(name, batch, bf16)()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description='Time ViT-B at 512 px.')
    parser.add_argument('--batch', type=int, default=2, help='images')
    parser.add_argument('--rounds', type=int, default=7, help='of each')
    parser.add_argument('--bf16', action='store_true', help='autocast')
    parser.add_argument(
        '--step', action='store_true', help="UPerNet's training step"
    )
    parser.add_argument(
        '--config', default=CONFIG, help='packaged config of the step'
    )
    args = parser.parse_args(argv)
    if args.step:
        wanted = (args.config, args.batch, args.bf16)
        megabytes = peak_megabytes(from_nothing, *wanted)
        taken = median_seconds({'': training_step(*wanted)}, args.rounds)['']
        print(f'training step {taken:8.2f} s{megabytes:8.0f} MB')
        return
    for name, training in (('training', True), ('inference', False)):
        made = {
            f'{name}, {kind}': partial(
                attention, kind, training, args.batch, args.bf16
            )
            for kind in KINDS
        }
        print_costs(made, args.rounds)


if __name__ == '__main__':
    main()
