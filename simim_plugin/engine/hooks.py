"""Hooks of a pretraining run."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from .schedule import cosine_momentum


@HOOKS.register_module()
class MomentumHook(Hook):
    """Moves the target branch once per optimizer step, at its start.

    Step t moves it with momentum m(t), a half cosine from ``base_momentum``
    to 1 over the run, before the target of step t is computed (REFERENCE
    4.2 and 4.5). m(t) follows from the iteration alone, which is in every
    checkpoint.

    Args:
        base_momentum (float): momentum at the start, 0 to 1. Defaults to
            0.995.
    """

    def __init__(self, base_momentum: float = 0.995) -> None:
        self.base_momentum = base_momentum

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Move the target if an optimizer step begins here."""
        if runner.iter % runner.optim_wrapper._accumulative_counts:
            return
        progress = runner.iter / runner.max_iters
        momentum = cosine_momentum(self.base_momentum, progress)
        wrapped = is_model_wrapper(runner.model)
        model = runner.model.module if wrapped else runner.model
        model.update_target(momentum)
        runner.message_hub.update_scalar('train/momentum', momentum)


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs images per second over all processes.

    Of normal priority, like mmengine's timer, which is registered first.
    """

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Add one figure to the log."""
        seconds = runner.message_hub.get_scalar('train/time').current()
        images = len(data_batch['data_samples']) * runner.world_size
        runner.message_hub.update_scalar(
            'train/images_per_second', images / seconds
        )
