"""Read the figures of the steps from their device only when needed.

Reading a value waits for the device. The device then idles until the next
step. mmengine reads every figure in
every step, and a run needs them for a line of the log or a checkpoint.
"""

from __future__ import annotations

from typing import Any

from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import Tensor, stack

_MOST = 1000
"""Values of a figure that may be on their device, in runs without a log."""


class LateHistory(HistoryBuffer):
    """A history whose last values may still be on their device.

    Every access reads them first, with one wait, so the history always equals
    mmengine's. Copies and files hold mmengine's class.

    Args:
        *args: those of mmengine's ``HistoryBuffer``.
    """

    def __init__(self, *args: Any) -> None:
        self._late: list[Tensor] = []
        super().__init__(*args)

    def add(self, value: Tensor) -> None:
        """Add a tensor of one number, without a wait for its device."""
        value = value.detach().reshape(()).clone()
        if self._late:
            last = self._late[-1]
            alike = (value.dtype, value.device) == (last.dtype, last.device)
            if not alike or len(self._late) == _MOST:
                self._settle()
        self._late.append(value)

    def update(self, log_val: float, count: int = 1) -> None:
        """Add a number, as mmengine does."""
        self._settle()
        super().update(log_val, count)

    def _settle(self) -> None:
        if self._late:
            late, self._late = self._late, []
            for value in stack(late).tolist():
                super().update(value)

    @property
    def _log_history(self) -> Any:
        self._settle()
        return self._values

    @_log_history.setter
    def _log_history(self, values: Any) -> None:
        self._values = values

    @property
    def _count_history(self) -> Any:
        self._settle()
        return self._counts

    @_count_history.setter
    def _count_history(self, counts: Any) -> None:
        self._counts = counts

    def __reduce__(self) -> tuple:
        return HistoryBuffer, (*self.data, self.max_length)


class LateFiguresHook(RuntimeInfoHook):
    """mmengine's hook for the state of a run; figures are read late."""

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Add the figures of a step to their histories.

        The first value of a figure is read at once: it begins the history.
        """
        hub = runner.message_hub
        for key, value in (outputs or {}).items():
            name = f'train/{key}'
            history = hub.log_scalars.get(name)
            if history is None or not isinstance(value, Tensor):
                hub.update_scalar(name, value)
                continue
            if not isinstance(history, LateHistory):
                history = LateHistory(*history.data, history.max_length)
                hub.log_scalars[name] = history
            history.add(value)
