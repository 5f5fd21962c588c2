"""Move the target branch towards the online branch."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from .schedule import cosine_momentum
from .unwrapping import unwrapped


@HOOKS.register_module()
class MomentumHook(Hook):
    """Move the target branch once per optimizer step, at its start.

    The momentum rises along half a cosine from ``base_momentum`` to 1 over
    the run. Step t moves the target before it computes the target features
    (docs/method.md). The momentum depends only on the iteration, which every
    checkpoint stores.

    Args:
        base_momentum (float): momentum at the start, 0 to 1. Defaults to
            0.995.
    """

    def __init__(self, base_momentum: float = 0.995) -> None:
        self.base_momentum = base_momentum

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Move the target if an optimizer step begins here."""
        if runner.iter % runner.optim_wrapper._accumulative_counts:
            return
        progress = runner.iter / runner.max_iters
        momentum = cosine_momentum(self.base_momentum, progress)
        unwrapped(runner.model).update_target(momentum)
        runner.message_hub.update_scalar('train/momentum', momentum)
