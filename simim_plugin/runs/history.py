"""Keep only the logged values that the windows of the log read.

mmengine's ``HistoryBuffer`` keeps a million values of every figure, which
fill the memory, slow each step down and swell each checkpoint.
"""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

_LEAST = 1000
"""Values that are kept for hooks that read a window of their own."""


class BoundedHistory(Hook):
    """Bound the history of the logged figures; what is logged stays the same.

    The bound holds for a resumed history too, from its next value on. There
    is none if ``custom_cfg`` of the ``log_processor`` asks for a statistic of
    all values.
    """

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Find the longest window."""
        self._bound = _longest_window(runner)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Bound all figures, of which other hooks may have added some."""
        if self._bound is not None:
            for figure in runner.message_hub.log_scalars.values():
                figure.max_length = self._bound


def _longest_window(runner: Runner) -> int | None:
    """Return the values to keep of each figure, None for all of them."""
    log = runner.log_processor
    windows = [_LEAST, log.window_size]
    windows += [getattr(hook, 'interval', 0) for hook in runner.hooks]
    if runner.val_loop is not None:
        windows.append(len(runner.val_dataloader))
    for entry in log.custom_cfg:
        if entry.get('method_name') == 'current':
            continue
        window = entry.get('window_size')
        if window == 'epoch':
            window = len(runner.train_dataloader)
        if not isinstance(window, int):  # 'global', or none: all values
            return None
        windows.append(window)
    return max(window for window in windows if isinstance(window, int))
