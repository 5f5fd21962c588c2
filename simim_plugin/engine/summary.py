"""Say in a few lines what a run does, before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.models import BaseSelfSupervisor

from ..text import ESTIMATE, clean, in_words
from .loop import accumulative_counts
from .optim import AutocastOptimWrapper
from .unwrapping import unwrapped

_NAMED = 8
"""Classes whose names are listed."""

_TIMED = 5
"""Steps after which the time of a run is estimated; the first is left out."""


class SummaryHook(Hook):
    """Log what a run does, and how long it takes."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Log the summary of a training."""
        self._begin = runner.iter
        for line in described(runner, 'train'):
            runner.logger.info(clean(line))

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Log how long the training takes, once."""
        done = runner.iter + 1 - self._begin
        left = runner.max_iters - runner.iter - 1
        time = runner.message_hub.log_scalars.get('train/time')
        if done == _TIMED and left > 0 and time is not None:
            seconds = float(time.mean(_TIMED - 1))
            runner.logger.info(
                f'{ESTIMATE} {seconds:.2g} s, the other {left} about '
                f'{in_words(seconds * left)} without the evaluations.'
            )

    def before_test(self, runner: Runner) -> None:
        """Log the summary of a test."""
        for line in described(runner, 'test'):
            runner.logger.info(clean(line))


def described(runner: Any, mode: str) -> Iterator[str]:
    """Yield the lines of a summary.

    Args:
        runner (Runner): about to begin.
        mode (str): 'train' or 'test'.
    """
    training = mode == 'train'
    yield _model(runner, training)
    loop = runner.train_loop if training else runner.test_loop
    yield _images(runner, loop.dataloader.dataset, training)
    if training:
        yield _length(runner, loop)
    yield _machine(runner, loop.dataloader.num_workers, training)
    results = f'Results: {Path(runner.work_dir).absolute()}'
    if training:
        results += _checkpoints(runner)
    yield f'{results}. Log: {runner.logger.log_file}'


def _model(runner: Any, training: bool) -> str:
    model = unwrapped(runner.model)
    name = type(model).__name__.removeprefix('FSDP')  # torch's, of shards
    if hasattr(model, 'backbone'):
        name += f' with {type(model.backbone).__name__}'
    numbers = [(p.numel(), p.requires_grad) for p in model.parameters()]
    text = f'Model: {name}, {_millions(sum(n for n, _ in numbers))} parameters'
    if training:
        trained = sum(n for n, moves in numbers if moves)
        text += f', {_millions(trained)} trained'
    settings = runner.cfg.get('model')
    filled = runner._has_loaded or _names_weights(settings)
    if settings and not filled:
        text += '; all weights are new'
    return f'{text}.'


def _millions(count: int) -> str:
    return f'{count / 1e6:.{1 if count < 1e8 else 0}f} million'


def _names_weights(node: Any) -> bool:
    """Whether a part of a model begins from a file."""
    if isinstance(node, Mapping):
        named = node.get('pretrained') or node.get('checkpoint')
        return bool(named) or any(map(_names_weights, node.values()))
    return isinstance(node, list | tuple) and any(map(_names_weights, node))


def _images(runner: Any, dataset: Any, training: bool) -> str:
    known = hasattr(dataset, '__len__')
    text = f'Images: {len(dataset) if known else "of unknown number"}'
    held = getattr(runner._val_loop, 'dataloader', None)
    if training and held is not None:
        text += f', and {len(held.dataset)} to evaluate on'
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    if isinstance(unwrapped(runner.model), BaseSelfSupervisor):
        classes = ()  # labels are not read
    if classes:
        names = ', '.join(map(str, classes[:_NAMED]))
        text += f'; {len(classes)} classes: {names}'
        if len(classes) > _NAMED:
            text += f' and {len(classes) - _NAMED} more'
    return f'{text}.'


def _length(runner: Any, loop: Any) -> str:
    accumulated = accumulative_counts(runner.optim_wrapper)
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    unit = 'epoch' if by_epoch else 'iteration'
    text = _counted(loop.max_iters, 'iteration')
    if by_epoch:
        text = f'{_counted(loop.max_epochs, unit)}, {text}'
    if accumulated > 1:
        steps = loop.max_iters // accumulated
        text += f', {_counted(steps, "optimizer step")}'
    if runner._val_loop is not None:
        text += f'; evaluated every {_counted(loop.val_interval, unit)}'
    if runner.iter:
        text += f'; goes on after iteration {runner.iter}'
    return f'Length: {text}.'


def _counted(number: int, what: str) -> str:
    return f'{number} {what}{"s" * (number != 1)}'


def _machine(runner: Any, workers: int, training: bool) -> str:
    text = f'CPU, {_counted(torch.get_num_threads(), "thread")}'
    if torch.cuda.is_available():
        text = torch.cuda.get_device_name()
    if runner.world_size > 1:
        text += f', {runner.world_size} processes'
    text += f', {_counted(workers, "loader worker")}'
    if training:
        text += f', {_precision(runner.optim_wrapper)}'
    return f'Machine: {text}.'


def _precision(wrapper: Any) -> str:
    """Return the number format of the forward pass."""
    if isinstance(wrapper, AutocastOptimWrapper):
        lowered = torch.cuda.is_available() or wrapper.on_cpu
        return 'bfloat16' if lowered else 'float32'
    if isinstance(wrapper, AmpOptimWrapper):
        kind = wrapper.cast_dtype or torch.get_autocast_gpu_dtype()
        return str(kind).removeprefix('torch.')
    return 'float32'


def _checkpoints(runner: Any) -> str:
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.interval > 0:
            unit = 'epoch' if hook.by_epoch else 'iteration'
            return f', a checkpoint every {_counted(hook.interval, unit)}'
    return ', no checkpoint'
