"""Settings that the tasks have in common: encoder, optimizer, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .encoders import Encoder
from .plans import Plan
from .survey import Survey, unreadable
from .written import Code, Written, extended


@dataclass(frozen=True)
class Tuning:
    """How a task trains the encoder.

    Args:
        freeze (bool): hold it. Defaults to False.
        encoder_lr (float): factor of its learning rate. Defaults to 1.
        lora (int, optional): rank of adapters that train in its place.
    """

    freeze: bool = False
    encoder_lr: float = 1.0
    lora: int | None = None

    @property
    def option(self) -> str | None:
        """The option that uses features as they are, None without one."""
        if self.freeze:
            return '--freeze'
        return '--lora' if self.lora else None


def set_encoder(
    out: Written, encoder: Encoder, changes: Mapping[str, Any], channels: int
) -> None:
    """Set the backbone.

    Args:
        out (Written): is changed.
        encoder (Encoder): to start from.
        changes (Mapping[str, Any]): its options that the packaged config
            does not have.
        channels (int): of the pictures.
    """
    backbone = 'model.backbone'
    if encoder.file:
        source = encoder.pretrained(channels)
        if isinstance(source, dict):  # the packaged configs have None
            source['_delete_'] = True
        out.set(f'{backbone}.pretrained', source, encoder.size)
    for key, value in changes.items():
        out.set(f'{backbone}.{key}', value)
    if channels > 3:
        out.set(f'{backbone}.in_channels', channels)


def set_tuning(out: Written, encoder: Encoder, tuning: Tuning) -> None:
    """Hold the encoder, or train adapters; all of the backbone is set."""
    if tuning.freeze:
        out.set('model.backbone.frozen_stages', encoder.depth, 'held')
    if tuning.lora:
        _add_adapters(out, tuning.lora)


def set_optimizer(
    out: Written,
    plan: Plan,
    rule: str,
    encoder: Encoder,
    tuning: Tuning | None,
) -> None:
    """Set the learning rates and the images of an optimizer step.

    Args:
        out (Written): is changed.
        plan (Plan): of the run.
        rule (str): how the learning rate was chosen.
        encoder (Encoder): to start from.
        tuning (Tuning, optional): None if the method holds the encoder.
    """
    wrapper = 'optim_wrapper'
    out.set(f'{wrapper}.optimizer.lr', plan.lr, rule)
    if plan.accumulated > 1:
        out.set(f'{wrapper}.accumulative_counts', plan.accumulated)
    if tuning and (tuning.lora or encoder.file is None):
        out.set(
            f'{wrapper}.paramwise_cfg.layer_decay_rate',
            1.0,
            '' if encoder.file else 'no encoder',
        )
    if tuning and tuning.encoder_lr != 1 and not tuning.freeze:
        out.set(
            f'{wrapper}.paramwise_cfg.custom_keys.backbone',
            dict(lr_mult=tuning.encoder_lr),
        )
    out.set('auto_scale_lr.base_batch_size', plan.total)


def set_epochs(out: Written, plan: Plan) -> None:
    """Set the warm-up and the length of a run that counts epochs."""
    out.set('param_scheduler.warmup', plan.warmup, 'epochs')
    about = f'{plan.steps} steps of {plan.total} of {plan.images} pictures'
    out.set('train_cfg.max_epochs', plan.epochs, about)


def set_iterations(out: Written, plan: Plan, count: int, every: int) -> None:
    """Set the length of a run that counts iterations.

    Args:
        out (Written): is changed.
        plan (Plan): of the run.
        count (int): its iterations.
        every (int): iterations between checkpoints, and between tests.
    """
    about = f'{plan.epochs} epochs of {plan.images} pictures'
    out.set('train_cfg.max_iters', count, about)
    out.set('train_cfg.val_interval', every)
    out.set('default_hooks.checkpoint.interval', every)


def skip_broken(out: Written, dataset: str, pictures: Survey) -> None:
    """Let a data set skip twice the share of pictures that were broken.

    Args:
        out (Written): is changed.
        dataset (str): dotted key of its settings.
        pictures (Survey): of its files.
    """
    broken = len(pictures.broken)
    if broken:
        share = round(2 * broken / (broken + len(pictures.seen)), 2)
        share = min(max(0.01, share), 1.0)
        out.set(f'{dataset}.skip_broken', share, unreadable(broken))


def _add_adapters(out: Written, rank: int) -> None:
    """Train LoRA adapters of the attention in the place of the encoder."""
    start = 'model.backbone.'
    module = {
        key.removeprefix(start): out.settings.pop(key).value
        for key in [*out.settings]
        if key.startswith(start)
    }
    out.set(f'{start}_delete_', True)
    out.set(f'{start}type', 'mmpretrain.LoRAModel')
    out.set(f'{start}rank', rank)
    out.set(f'{start}alpha', rank)
    out.set(f'{start}targets', [dict(type='qkv'), dict(type='proj')])
    base = Code('_base_.model.backbone')
    out.set(f'{start}module', extended(base, module), 'held')
