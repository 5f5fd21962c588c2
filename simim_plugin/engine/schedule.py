"""The method's two schedules in closed form: learning rate and momentum."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import (
    OptimizerType,
    _ParamScheduler,
)
from mmpretrain.registry import PARAM_SCHEDULERS


def cosine_decay(progress: float) -> float:
    """Half a cosine: 1 at progress 0, 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def cosine_momentum(base: float, progress: float) -> float:
    """Momentum of the target branch: ``base`` at 0, 1 at progress 1."""
    return 1 - (1 - base) * cosine_decay(progress)


def linear_momentum(base: float, progress: float) -> float:
    """Momentum on the line from ``base`` at 0 to 1 at progress 1."""
    return base + (1 - base) * progress


def replay(
    schedulers: Sequence[_ParamScheduler], steps: int, epoch_length: int
) -> None:
    """Move new schedulers to a step, one by one, as in a run.

    mmengine's own compute each value from the one before.
    """
    with warnings.catch_warnings():
        # They warn that the optimizer has made no step yet.
        warnings.simplefilter('ignore')
        for step in range(1, steps + 1):
            for scheduler in schedulers:
                if not (scheduler.by_epoch and step % epoch_length):
                    scheduler.step()


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up from exactly 0, then half a cosine down to ``eta_min``.

    The value at step t of T with warm-up W is ``lr * t / W`` while t < W,
    then ``eta_min + (lr - eta_min) * (1 + cos(pi (t - W) / (T - W))) / 2``,
    with ``eta_min`` times the group's ``lr_scale``. All three count from
    ``begin``. Under gradient accumulation it changes only with optimizer
    steps.

    mmengine's own schedulers cannot express it: their warm-up divides by a
    start factor of 0 and ends one step early.

    Args:
        optimizer (OptimWrapper | Optimizer): optimizer to schedule.
        warmup (float): epochs (iterations if not ``by_epoch``) of warm-up.
            Defaults to 0.
        eta_min (float): the last learning rate. Defaults to 0.
        **kwargs: ``begin``, ``end``, ``by_epoch`` and the others of mmengine's
            schedulers. ``convert_to_iter_based=True`` steps each iteration.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        warmup: float = 0,
        eta_min: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.warmup = warmup
        self.eta_min = eta_min
        super().__init__(optimizer, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls,
        optimizer: OptimizerType,
        *,
        end: int,
        epoch_length: int,
        begin: float = 0,
        warmup: float = 0,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> WarmupCosineLR:
        """Convert epochs to iterations; mmengine's registry calls this."""
        return cls(
            optimizer,
            warmup=warmup * epoch_length,
            begin=begin * epoch_length,
            end=end * epoch_length,
            by_epoch=False,
            **kwargs,
        )

    def _get_value(self) -> list[float]:
        """Return the values of all groups at the current step."""
        accumulated = getattr(self.optimizer, '_accumulative_counts', 1)
        accumulated = 1 if self.by_epoch else accumulated
        step = self.last_step - self.last_step % accumulated
        if step < self.warmup:
            return [base * step / self.warmup for base in self.base_values]
        length = self.end - self.begin - self.warmup
        decay = cosine_decay((step - self.warmup) / length)
        floors = [
            self.eta_min * group.get('lr_scale', 1.0)
            for group in self.optimizer.param_groups
        ]
        return [
            floor + (base - floor) * decay
            for base, floor in zip(self.base_values, floors, strict=True)
        ]
