"""Move the target branch towards the online branch."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..errors import SimimError
from .schedule import cosine_momentum, linear_momentum
from .unwrapping import part_for, unwrapped

_SCHEDULES = dict(cosine=cosine_momentum, linear=linear_momentum)


@HOOKS.register_module()
class MomentumHook(Hook):
    """Move the target branch once per optimizer step, at its start.

    The momentum rises from ``base_momentum`` to 1 along half a cosine over
    the run, or along a line. Step t moves the target before it computes the
    target features (docs/method.md). The momentum depends only on the
    iteration, which every checkpoint stores.

    Args:
        base_momentum (float): momentum at the start, 0 to 1. Defaults to
            0.995.
        schedule (str): 'cosine' or 'linear'. Defaults to 'cosine'.
        stretch (float): length of the rise in runs, at least 1: 1.25 ends
            the run at four fifths of it. Defaults to 1.

    Raises:
        SimimError: for another schedule or a shorter rise, or a model
            without target branch.
    """

    def __init__(
        self,
        base_momentum: float = 0.995,
        schedule: str = 'cosine',
        stretch: float = 1.0,
    ) -> None:
        if schedule not in _SCHEDULES or stretch < 1:
            raise SimimError(
                f'MomentumHook has schedule={schedule!r} and '
                f'stretch={stretch}; set schedule to {" or ".join(_SCHEDULES)}'
                ', and stretch to at least 1.'
            )
        self.base_momentum = base_momentum
        self.schedule = schedule
        self.stretch = stretch

    def before_train(self, runner: Runner) -> None:
        """Check that the model has a target branch."""
        part_for(self, runner.model, 'update_target')

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Move the target if an optimizer step begins here."""
        if runner.iter % runner.optim_wrapper._accumulative_counts:
            return
        progress = runner.iter / runner.max_iters / self.stretch
        momentum = _SCHEDULES[self.schedule](self.base_momentum, progress)
        unwrapped(runner.model).update_target(momentum)
        runner.message_hub.update_scalar('train/momentum', momentum)
