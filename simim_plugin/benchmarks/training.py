"""Speed and memory of the training step and the loss, beside yardsticks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from tqdm import tqdm

from ..config_files import config_path
from ..datasets.collating import collate_pairs
from ..engine.compiling import compile_parts
from ..engine.optim import has_fused
from ..engine.small_views import SCALE, SHARE, small_pipeline
from ..errors import SimimError
from ..models import UniGradHead
from ..settings import apply_img_size
from ..vit.arches import ARCHES
from .timing import (
    DEVICE,
    Timed,
    costs,
    count_flops,
    median_seconds,
    middle,
    peak_megabytes,
)

RECIPE = 'siamese_im_vit-base-p16_8xb512-amp-coslr-1600e_in1k.py'
EFFICIENT = (
    'target-random',
    'target-random-alone',
    'target-block',
    'target-block-alone',
    'target-three-quarters',
    'target-half',
    'small-first',
)
_Prepare = Callable[[int, bool], Callable[[], object]]


def pretraining_step(
    name: str,
    batch: int,
    bf16: bool | torch.dtype,
    compiled: dict[str, Any] | None = None,
    img_size: int | None = None,
    masked: int | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    with_cp: bool = False,
    change: Callable[[Config], None] | None = None,
    small: bool = False,
) -> Callable[[], Tensor]:
    """Prepare an optimizer step of a packaged config on views of noise.

    Args:
        name (str): the config.
        batch (int): images.
        bf16 (bool | torch.dtype): under autocast, or to this dtype; float16
            with a gradient scaler.
        compiled (dict[str, Any], optional): arguments of
            :func:`simim_plugin.engine.compiling.compile_parts`. Defaults to
            None, no part.
        img_size (int, optional): as for :func:`changed_config`.
        masked (int, optional): likewise.
        wrap (Callable, optional): wraps the model, such as for several
            processes.
        with_cp (bool): recompute the backbone's activations. Defaults to
            False.
        change (Callable, optional): changes other settings of the config.
        small (bool): with the small views of the config's
            ``SmallViewsFirst``. Defaults to False.

    Returns:
        Callable[[], Tensor]: runs it and returns the loss.
    """
    config = changed_config(name, img_size, masked)
    if with_cp:
        config.model.backbone.with_cp = True
    if change is not None:
        change(config)
    import_modules_from_strings(**config.custom_imports)
    init_default_scope('mmpretrain')
    model = MODELS.build(config.model)
    model.init_weights()
    model.to(DEVICE)
    data = _views_of_noise(config, model, batch, small)
    tokenizer = getattr(model, 'target_generator', None)
    if tokenizer is not None:  # BEiT's is fitted on images
        tokenizer.fit(torch.rand(64, *data['inputs'][0].shape[1:]), rounds=1)
    moves = getattr(model, 'update_target', None)
    if compiled is not None:
        compile_parts(model, **compiled)
    whole = model if wrap is None else wrap(model)

    def loss() -> Tensor:
        if moves is not None:
            moves(0.995)
        return whole(**data, mode='loss')['loss']

    return _optimizer_step(model, loss, bf16)


def _views_of_noise(
    config: Config, model: Any, batch: int, small: bool
) -> dict[str, Any]:
    """Return a batch of a model, of images of noise."""
    pipeline = config.train_dataloader.dataset.pipeline
    transforms = Compose([t for t in pipeline if t.type != 'LoadRGBImage'])
    if small:
        (hook,) = _small_views(config)
        scale = hook.get('scale', SCALE)
        transforms = small_pipeline(transforms, scale, model.backbone)
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (batch, 256, 320, 3), np.uint8)
    samples = [transforms(dict(img=img, gt_label=0)) for img in images]
    return model.data_preprocessor(collate_pairs(samples), training=True)


def changed_config(
    name: str, img_size: int | None = None, masked: int | None = None
) -> Config:
    """Read a packaged pretraining config and change its sizes.

    Args:
        name (str): the config.
        img_size (int, optional): side of the views, pixels. Defaults to that
            of the config.
        masked (int, optional): patches that each mask hides. Defaults to
            that of the config.

    Raises:
        SimimError: if the config has no such mask, or no such size fits.
    """
    config = Config.fromfile(config_path(name))
    if img_size is not None:
        config.img_size = img_size
        apply_img_size(config)
    if masked is not None:
        mask = _mask_of(config)
        if mask is None:
            raise SimimError(
                f'{name} has no transform BlockwiseMask, whose number of '
                'patches --masked sets; leave it out.'
            )
        mask.num_masked = masked
    return config


def step_settings(config: Config) -> dict[str, int | None]:
    """Return ``img_size`` and ``masked`` of a pretraining config."""
    mask = _mask_of(config)
    return dict(
        img_size=config.model.backbone.img_size,
        masked=None if mask is None else mask.num_masked,
    )


def _mask_of(config: Config) -> Any:
    pipeline = config.train_dataloader.dataset.pipeline
    return next((t for t in pipeline if t.type == 'BlockwiseMask'), None)


def plain_vit_step(
    batch: int, bf16: bool, config: str, img_size: int | None
) -> Callable[[], object]:
    """Prepare the yardstick: a step of MMPretrain's classifier.

    Its ViT has the shape of the encoder of a packaged config.
    """
    init_default_scope('mmpretrain')
    encoder = changed_config(config, img_size).model.backbone
    arch = ARCHES.get(encoder.arch) or dict(encoder.arch)
    size = encoder.img_size
    backbone = dict(
        type='VisionTransformer',
        arch=arch,
        img_size=size,
        patch_size=encoder.patch_size,
    )
    head = dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=arch['embed_dims'],
    )
    model = MODELS.build(
        dict(type='ImageClassifier', backbone=backbone, head=head)
    )
    model.init_weights()
    images = torch.rand(batch, 3, size, size, device=DEVICE)
    samples = [DataSample().set_gt_label(k).to(DEVICE) for k in range(batch)]

    def loss() -> Tensor:
        return model.loss(images, samples)['loss']

    return _optimizer_step(model, loss, bf16)


def _optimizer_step(
    model: nn.Module, loss: Callable[[], Tensor], low: bool | torch.dtype
) -> Callable[[], Tensor]:
    model.to(DEVICE).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=1e-4, fused=has_fused(str(DEVICE))
    )
    dtype = low if isinstance(low, torch.dtype) else torch.bfloat16
    scaler = torch.amp.GradScaler(DEVICE, enabled=dtype is torch.float16)

    def step() -> Tensor:
        with torch.autocast(DEVICE, dtype) if low else nullcontext():
            value = loss()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return value.detach()

    return step


def measure_steps(
    config: str,
    batch: int,
    rounds: int,
    img_size: int | None,
    masked: int | None,
) -> dict[str, float]:
    """Measure time and memory of a training step in fp32 and bf16.

    Args:
        config (str): packaged pretraining config.
        batch (int): images per step.
        rounds (int): counted steps of each kind.
        img_size (int, optional): as for :func:`changed_config`.
        masked (int, optional): likewise.

    Returns:
        dict[str, float]: seconds, images per second, MB and ratios.
    """
    siamese_im = partial(
        pretraining_step, config, img_size=img_size, masked=masked
    )
    plain = partial(plain_vit_step, config=config, img_size=img_size)
    kinds: dict[str, tuple[_Prepare, bool]] = {
        'SiameseIM fp32': (siamese_im, False),
        'SiameseIM bf16': (siamese_im, True),
        'plain ViT fp32': (plain, False),
        'plain ViT bf16': (plain, True),
    }
    seconds = median_seconds(
        {name: make(batch, bf16) for name, (make, bf16) in kinds.items()},
        rounds,
    )
    figures: dict[str, float] = {}
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


def measure_compiled(
    config: str, batch: int, rounds: int, bf16: bool
) -> dict[str, float]:
    """Measure a step with its parts compiled beside the plain one.

    Args:
        config (str): packaged pretraining config.
        batch (int): images per step.
        rounds (int): counted steps of each kind.
        bf16 (bool): under autocast.

    Returns:
        dict[str, float]: seconds, their ratio, and those of the first step.
    """
    compiled = pretraining_step(config, batch, bf16, dict(modules=True))
    begun = perf_counter()
    compiled()
    first = perf_counter() - begun
    plain = pretraining_step(config, batch, bf16)
    seconds = median_seconds(dict(compiled=compiled, plain=plain), rounds)
    figures: dict[str, float] = {
        f'{name}: seconds a step': value for name, value in seconds.items()
    }
    figures['compiled: seconds of the first step'] = first
    figures['compiled / plain'] = seconds['compiled'] / seconds['plain']
    return figures


def measure_activations(
    config: str, batch: int, rounds: int, bf16: bool
) -> dict[str, float]:
    """Measure a step that computes the backbone's activations again.

    Args:
        config (str): packaged pretraining config.
        batch (int): images per step.
        rounds (int): counted steps of each kind.
        bf16 (bool): under autocast.

    Returns:
        dict[str, float]: seconds and MB of both steps, and their ratios.
    """
    kinds = {'activations kept': False, 'activations computed again': True}
    found = costs(
        {
            kind: partial(
                pretraining_step, config, batch, bf16, with_cp=with_cp
            )
            for kind, with_cp in kinds.items()
        },
        rounds,
    )
    kept, again = kinds
    for unit in ('s', 'MB'):
        ratio = found[f'{again}: {unit}'] / found[f'{kept}: {unit}']
        found[f'computed again / kept, {unit}'] = ratio
    return found


def variant_files() -> dict[str, str]:
    """Return the configs of row (i) and of the efficiency rows, by name."""
    return {row: f'siamese_im_row-{row}.py' for row in ('i', *EFFICIENT)}


def rival_files() -> dict[str, str]:
    """Return the configs of row (i), of MAE and of every rival, by name."""
    files = {row: f'siamese_im_row-{row}.py' for row in ('i', 'mae')}
    first = Path(config_path('siamese_im_rival-dino.py'))
    for file in sorted(first.parent.glob('*.py')):
        files[file.stem.removeprefix('siamese_im_rival-')] = file.name
    return files


def measure_methods(
    files: Mapping[str, str],
    scale: str,
    batch: int,
    rounds: int,
    change: Callable[[Config], None] | None = None,
) -> dict[str, float]:
    """Measure a pretraining step of some configs, in fp32.

    Steps are timed in turns, and built one at a time: a small machine cannot
    hold all of them.

    Args:
        files (Mapping[str, str]): packaged configs by name, ``i`` first.
        scale (str): of the configs.
        batch (int): images per step.
        rounds (int): counted steps of each.
        change (Callable, optional): changes each config; it is pickled.

    Returns:
        dict[str, float]: seconds, MB, GFLOPs per image, and
        ratios to row (i).
    """
    os.environ['SIMIM_SCALE'] = scale  # overrides the user's
    seconds: dict[str, list[Timed]] = {row: [] for row in files}
    flops: dict[str, float] = {}
    for _ in tqdm(range(rounds), desc='timing', leave=False):
        for row, file in files.items():
            flops[row], taken = 0.0, []
            for small, share in view_shares(file, change).items():
                step = pretraining_step(
                    file, batch, False, change=change, small=small
                )
                flops[row] += share * count_flops(step) / batch / 1e9
                taken.append(median_seconds({row: step}, 1)[row] * share)
            seconds[row].append(Timed.sum(taken))
    costs: dict[str, Mapping[str, float]] = {
        'seconds a step': {r: middle(values) for r, values in seconds.items()},
        'peak MB of a step': {
            row: peak_megabytes(_step_of_scale, scale, file, batch, change)
            for row, file in files.items()
        },
        'GFLOPs an image': flops,
    }
    figures: dict[str, float] = {}
    for row in files:
        for name, values in costs.items():
            figures[f'{row}: {name}'] = values[row]
            if row != 'i':
                figures[f'{row}: {name}, / (i)'] = values[row] / values['i']
    return figures


def _small_views(config: Config) -> list[Any]:
    """Return the ``SmallViewsFirst`` of a config, none or one."""
    hooks = config.get('custom_hooks', ())
    return [hook for hook in hooks if hook.type == 'SmallViewsFirst']


def view_shares(
    name: str, change: Callable[[Config], None] | None = None
) -> dict[bool, float]:
    """Return the shares of the iterations of a run with small views and not.

    Args:
        name (str): the config.
        change (Callable, optional): changes its settings.

    Returns:
        dict[bool, float]: by ``small`` of :func:`pretraining_step`.
    """
    config = changed_config(name)
    if change is not None:
        change(config)
    share = sum(hook.get('share', SHARE) for hook in _small_views(config))
    return {True: share, False: 1 - share} if share else {False: 1.0}


def _step_of_scale(
    scale: str,
    name: str,
    batch: int,
    change: Callable[[Config], None] | None,
) -> Callable[[], object]:
    os.environ['SIMIM_SCALE'] = scale
    return pretraining_step(name, batch, False, change=change)


def dense_loss(tokens: int, dim: int = 768) -> Callable[[], object]:
    """Prepare the loss by its D x D correlation, forward and backward."""
    prediction, target = random_tokens(tokens, dim)
    head = UniGradHead()

    def run() -> None:
        head.loss(prediction[None], target[None])['loss'].backward()

    return run


def pairwise_loss(tokens: int, dim: int = 768) -> Callable[[], object]:
    """Prepare the yardstick: the same loss by all M x M similarities."""
    prediction, target = random_tokens(tokens, dim)

    def run() -> None:
        t = F.layer_norm(target, (dim,))
        positive = (prediction - t).square().sum(-1).mean()
        negative = (prediction @ t.T).square().mean()
        ((positive + 0.02 * negative) / dim).backward()

    return run


def random_tokens(tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    """Draw predictions, which take a gradient, and targets, (M, D) each."""
    prediction, target = torch.randn(2, tokens, dim, device=DEVICE)
    return prediction.requires_grad_(), target


def measure_loss(tokens: int, rounds: int) -> dict[str, float]:
    """Measure time and memory of the loss and its M x M form.

    Args:
        tokens (int): M, divisible by 8.
        rounds (int): counted runs of each.

    Returns:
        dict[str, float]: milliseconds, MB, ratios, and growth with M.
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
    figures: dict[str, float] = {}
    for name in kinds:
        figures[f'{name}: ms'] = seconds[name] * 1e3
        figures[f'{name}: extra MB'] = memory[name]
    few, many, pairwise = kinds
    figures['M x M form / loss, seconds'] = seconds[pairwise] / seconds[many]
    figures['x8 tokens, times the seconds'] = seconds[many] / seconds[few]
    figures['x8 tokens, times the MB'] = memory[many] / memory[few]
    return figures
