"""Schedules of temperatures and weight decay, and held layers."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.optim import Optimizer

from ..engine.unwrapping import part_for, unwrapped
from ..errors import SimimError


@HOOKS.register_module()
class TemperatureHook(Hook):
    """Move the teacher's temperature along a line, once per step.

    It depends on the iteration alone, which every checkpoint stores.

    Args:
        start (float): temperature at the start, above 0.
        end (float): temperature from ``epochs`` on, above 0.
        epochs (float): length of the line, at least 0.

    Raises:
        SimimError: for a temperature of 0 or less, a negative length, or a
            model whose head has no ``teacher_temperature``.
    """

    def __init__(self, start: float, end: float, epochs: float) -> None:
        if min(start, end) <= 0 or epochs < 0:
            raise SimimError(
                f'TemperatureHook has start={start}, end={end} and '
                f'epochs={epochs}; set temperatures above 0 and epochs to at '
                'least 0.'
            )
        self.start, self.end, self.epochs = start, end, epochs

    def before_train(self, runner: Runner) -> None:
        """Check that the head has a teacher's temperature."""
        part_for(self, runner.model, 'head.teacher_temperature')

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Set the temperature of this step."""
        step = runner.iter - runner.iter % (
            runner.optim_wrapper._accumulative_counts
        )
        length = self.epochs * len(runner.train_dataloader)
        share = min(step / length, 1.0) if length else 1.0
        value = self.start + (self.end - self.start) * share
        unwrapped(runner.model).head.teacher_temperature = value


@HOOKS.register_module()
class HoldLastLayerHook(Hook):
    """Keep the last layer of the neck as it is through the first epochs.

    Its gradients are dropped before the optimizer's step, as DINO does.

    Args:
        epochs (float): above 0. Defaults to 1.

    Raises:
        SimimError: for other epochs, or a model whose neck has no
            ``last_layer``.
    """

    def __init__(self, epochs: float = 1) -> None:
        if epochs <= 0:
            raise SimimError(
                f'HoldLastLayerHook has epochs={epochs}; set it above 0, '
                'or leave the hook out.'
            )
        self.epochs = epochs

    def before_train(self, runner: Runner) -> None:
        """Drop the gradients right before the optimizer's step."""
        layer = part_for(self, runner.model, 'neck.last_layer')

        def drop(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if runner.iter < self.epochs * len(runner.train_dataloader):
                for parameter in layer.parameters():
                    parameter.grad = None

        wrapper = runner.optim_wrapper
        self._handle = wrapper.optimizer.register_step_pre_hook(drop)

    def after_train(self, runner: Runner) -> None:
        """Let the layer go."""
        self._handle.remove()


@HOOKS.register_module()
class StepEMAHook(EMAHook):
    """MMEngine's average of the weights, once per optimizer step.

    Its own counts batches, of which a step may accumulate several. A skipped
    step leaves the average as it is.

    Args:
        **kwargs: see :class:`mmengine.hooks.EMAHook`.
    """

    def before_train(self, runner: Runner) -> None:
        """Note every step that the optimizer makes."""
        super().before_train(runner)
        self._stepped = False

        def note(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            # NonFiniteGuard takes the gradients of a step that it skips.
            self._stepped = any(
                parameter.grad is not None
                for group in optimizer.param_groups
                for parameter in group['params']
            )

        wrapper = runner.optim_wrapper
        self._handle = wrapper.optimizer.register_step_post_hook(note)

    def after_train_iter(
        self, runner: Runner, *args: Any, **kwargs: Any
    ) -> None:
        """Follow the step, after HoldBackboneHook undoes its part."""
        if self._stepped:
            super().after_train_iter(runner, *args, **kwargs)
        self._stepped = False

    def after_train(self, runner: Runner) -> None:
        """Note no more steps."""
        self._handle.remove()
