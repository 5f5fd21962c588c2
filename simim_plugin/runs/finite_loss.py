"""End a run that never had a finite loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..errors import SimimError, Trouble

_PATIENCE = 50
"""Iterations without a finite loss that are enough for a verdict."""


class FiniteLoss(Hook):
    """End a run whose loss is never finite, before it saves a checkpoint.

    The verdict falls after the last iteration of a run, or after 50. Until
    then it reads nothing, which would wait for the device.
    """

    def before_train(self, runner: Runner) -> None:
        """Note where the run begins, which may be a resumed one."""
        self._begin = runner.iter

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Look at the loss.

        Raises:
            SimimError: if none was finite in any process.
        """
        done = runner.iter + 1 - self._begin
        if done != min(_PATIENCE, runner.max_iters - self._begin):
            return
        loss = runner.message_hub.log_scalars.get('train/loss')
        found = loss is None or np.isfinite(loss.data[0][-done:]).any()
        finite = torch.tensor(float(found))
        all_reduce(finite, 'max')
        if not finite:
            raise SimimError(
                f'The loss is not finite in any of the {done} iterations of '
                'this run, which ends here; lower the learning rate, or check '
                'the weights that it starts from and the images; see '
                f'{Trouble.NOT_FINITE}.'
            )
