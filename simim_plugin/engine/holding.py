"""Hold a pretrained encoder while the new parts learn to follow it."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from ..errors import SimimError
from .sharding import shard_of
from .unwrapping import part_for


@HOOKS.register_module()
class HoldBackboneHook(Hook):
    """Keep the weights of the backbone through the first epochs.

    A new projector and decoder send large gradients into an encoder that is
    trained already. Each step's change of the backbone is undone, so the hook
    works with any optimizer and any number of processes. The learning rate
    goes on as scheduled.

    Args:
        epochs (int): at least 1.

    Raises:
        SimimError: for fewer epochs, or a model without backbone.
    """

    priority = 'VERY_HIGH'  # before checkpoints

    def __init__(self, epochs: int) -> None:
        if epochs < 1:
            raise SimimError(
                f'HoldBackboneHook has epochs={epochs}; set it to at least '
                '1, or leave the hook out.'
            )
        self.epochs = epochs
        self._trained: list[Tensor] = []
        self._held: tuple[list[Tensor], list[Tensor]] | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the weights that are trained."""
        backbone = part_for(self, runner.model, 'backbone')
        self._trained = [w for w in backbone.parameters() if w.requires_grad]
        if not self._trained:
            runner.logger.warning(
                'HoldBackboneHook has no effect: no weight of the backbone '
                'is trained.'
            )

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Copy the weights, or let them go."""
        if not self._trained:
            return
        # Loops of iterations count no epochs.
        if runner.iter >= self.epochs * len(runner.train_dataloader):
            if self._held is not None:
                runner.logger.info('The backbone is trained from here on.')
            self._held = None
        elif self._held is None:
            held = [*map(shard_of, self._trained)]
            self._held = held, [weight.clone() for weight in held]
            runner.logger.info(
                f'The backbone is held until epoch {self.epochs}.'
            )

    @torch.no_grad()
    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Undo the step of the backbone."""
        if self._held is not None:
            torch._foreach_copy_(*self._held)
