"""The training step and the loss, beside yardsticks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..geometry import PairGeometry, View
from ..models import UniGradHead
from ..packaged import config_path
from .timing import median_seconds, peak_megabytes

RECIPE = 'siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k.py'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def siamese_im_step(batch: int, bf16: bool) -> Callable[[], object]:
    """A whole optimizer step of ViT-B/16 SiameseIM at 224 px."""
    config = Config.fromfile(config_path(RECIPE))
    init_default_scope('mmpretrain')
    model = MODELS.build(config.model)
    model.init_weights()
    views = [torch.rand(batch, 3, 224, 224, device=DEVICE) for _ in range(2)]
    samples = []
    for _ in range(batch):
        sample = DataSample().set_mask(torch.randperm(196) < 118)
        sample.geometry = PairGeometry(
            View.of((10, 20, 200, 150), False), View.of((0, 0, 90, 80), True)
        )
        samples.append(sample)

    def loss() -> Tensor:
        model.update_target(0.995)
        return model.loss(views, samples)['loss']

    return _optimizer_step(model, loss, bf16)


def plain_vit_step(batch: int, bf16: bool) -> Callable[[], object]:
    """The yardstick: MMPretrain's ViT-B/16 trained as a classifier."""
    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='VisionTransformer', arch='base'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=768),
        )
    )
    model.init_weights()
    images = torch.rand(batch, 3, 224, 224, device=DEVICE)
    samples = [DataSample().set_gt_label(k) for k in range(batch)]
    for sample in samples:
        sample.to(DEVICE)

    def loss() -> Tensor:
        return model.loss(images, samples)['loss']

    return _optimizer_step(model, loss, bf16)


def _optimizer_step(
    model: nn.Module, loss: Callable[[], Tensor], bf16: bool
) -> Callable[[], object]:
    model.to(DEVICE).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def step() -> None:
        autocast = torch.autocast(DEVICE, torch.bfloat16)
        with autocast if bf16 else nullcontext():
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_steps(batch: int = 8, rounds: int = 5) -> dict[str, float]:
    """Time and memory of a training step, in fp32 and bf16.

    Args:
        batch (int): images a step. Defaults to 8.
        rounds (int): counted steps of each kind. Defaults to 5.

    Returns:
        dict[str, float]: seconds, images a second, MB and ratios.
    """
    kinds = {
        'SiameseIM fp32': (siamese_im_step, False),
        'SiameseIM bf16': (siamese_im_step, True),
        'plain ViT fp32': (plain_vit_step, False),
        'plain ViT bf16': (plain_vit_step, True),
    }
    seconds = median_seconds(
        {name: make(batch, bf16) for name, (make, bf16) in kinds.items()},
        rounds,
    )
    figures = {}
    for name, (make, bf16) in kinds.items():
        figures[f'{name}: seconds a step'] = seconds[name]
        figures[f'{name}: images a second'] = batch / seconds[name]
        memory = peak_megabytes(make, batch, bf16)
        figures[f'{name}: peak MB of a step'] = memory
    for dtype in ('fp32', 'bf16'):
        figures[f'SiameseIM / plain ViT, seconds, {dtype}'] = (
            seconds[f'SiameseIM {dtype}'] / seconds[f'plain ViT {dtype}']
        )
    figures['SiameseIM fp32 / bf16, seconds'] = (
        seconds['SiameseIM fp32'] / seconds['SiameseIM bf16']
    )
    return figures


def dense_loss(tokens: int, dim: int = 768) -> Callable[[], object]:
    """Forward and backward of the loss by its D x D correlation."""
    prediction, target = _tokens(tokens, dim)
    head = UniGradHead()

    def run() -> None:
        head.loss(prediction[None], target[None])['loss'].backward()

    return run


def pairwise_loss(tokens: int, dim: int = 768) -> Callable[[], object]:
    """The yardstick: the same loss by all M x M similarities."""
    prediction, target = _tokens(tokens, dim)

    def run() -> None:
        t = F.layer_norm(target, (dim,))
        positive = (prediction - t).square().sum(-1).mean()
        negative = (prediction @ t.T).square().mean()
        ((positive + 0.02 * negative) / dim).backward()

    return run


def _tokens(tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    prediction, target = torch.randn(2, tokens, dim, device=DEVICE)
    return prediction.requires_grad_(), target


def measure_loss(tokens: int = 12544, rounds: int = 5) -> dict[str, float]:
    """Time and memory of the loss, its growth, and the M x M form's.

    Args:
        tokens (int): M, divisible by 8. Defaults to 12544 (64 x 196).
        rounds (int): counted runs of each. Defaults to 5.

    Returns:
        dict[str, float]: milliseconds, MB and ratios.
    """
    kinds = {
        f'loss, {tokens // 8} tokens': (dense_loss, tokens // 8),
        f'loss, {tokens} tokens': (dense_loss, tokens),
        f'M x M form, {tokens} tokens': (pairwise_loss, tokens),
    }
    seconds = median_seconds(
        {name: make(count) for name, (make, count) in kinds.items()}, rounds
    )
    memory = {
        name: peak_megabytes(make, count)
        for name, (make, count) in kinds.items()
    }
    figures = {}
    for name in kinds:
        figures[f'{name}: ms'] = seconds[name] * 1e3
        figures[f'{name}: extra MB'] = memory[name]
    few, many, pairwise = kinds
    figures['M x M form / loss, seconds'] = seconds[pairwise] / seconds[many]
    figures['x8 tokens, times the seconds'] = seconds[many] / seconds[few]
    figures['x8 tokens, times the MB'] = memory[many] / memory[few]
    return figures
