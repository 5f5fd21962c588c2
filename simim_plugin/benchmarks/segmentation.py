"""Seconds and peak memory of UPerNet with ViT-B at 512 px.

Shape key: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.backbones import MAE
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from ..config_files import config_path
from ..segmentation import SiameseIMSegViT
from .timing import DEVICE, costs, median_seconds, peak_megabytes, token_pass

CONFIG = 'siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512.py'
SHAPE = dict(embed_dims=768, num_layers=1, num_heads=12)
KINDS = ('MMSegmentation', 'ours')


def attention(
    kind: str, training: bool, batch: int, bf16: bool
) -> Callable[[], object]:
    """Prepare one block's attention over 32 x 32 patches and the cls token.

    Args:
        kind (str): one of ``KINDS``.
        training (bool): also compute gradients.
        batch (int): images.
        bf16 (bool): under autocast.

    Returns:
        Callable[[], object]: runs it.
    """
    shape = (batch, 1 + 32 * 32, 768)  # (B, T, C)
    if kind == 'MMSegmentation':
        stock = MAE(**SHAPE, img_size=512).layers[0].attn.to(DEVICE)
        return token_pass(stock, shape, bf16, training)
    vit = SiameseIMSegViT(
        arch=dict(SHAPE, feedforward_channels=4 * 768),
        img_size=512,
        layer_scale_init_value=0.0,  # the stock attention does not scale
    ).to(DEVICE)
    ours, places = vit.layers[0].attn, vit.places((32, 32))
    return token_pass(lambda x: ours(x, *places), shape, bf16, training)


def training_step(
    name: str, batch: int, bf16: bool
) -> Callable[[], dict[str, torch.Tensor]]:
    """Prepare an optimizer step of a packaged config on random images.

    Args:
        name (str): the config.
        batch (int): images, of the config's crop size.
        bf16 (bool): under autocast.

    Returns:
        Callable[[], dict[str, Tensor]]: runs it and returns the losses.
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
    """Prepare a step that also allocates weights and AdamW's state."""
    return lambda: training_step(name, batch, bf16)()


def measure_step(
    name: str, batch: int, bf16: bool, rounds: int
) -> dict[str, float]:
    """Measure a training step of UPerNet; the memory is all that it needs."""
    megabytes = peak_megabytes(from_nothing, name, batch, bf16)
    actions = {'step': training_step(name, batch, bf16)}
    seconds = median_seconds(actions, rounds)['step']
    return {'training step: s': seconds, 'training step: MB': megabytes}


def measure_attention(batch: int, bf16: bool, rounds: int) -> dict[str, float]:
    """Measure one block's attention, ours beside MMSegmentation's."""
    figures: dict[str, float] = {}
    for name, training in (('training', True), ('inference', False)):
        made = {
            f'{name}, {kind}': partial(attention, kind, training, batch, bf16)
            for kind in KINDS
        }
        figures |= costs(made, rounds)
    return figures
