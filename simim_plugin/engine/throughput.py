"""Log the speed of training, the wait for data and the memory in use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..errors import Trouble

_MEMORY = Path('/proc/self/statm')


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Log the speed of training and warn if data loading limits it.

    ``images_per_second`` counts all processes. ``data_wait`` is the share of
    the time spent waiting for batches, 0 to 1. On a CPU, ``memory`` is the
    resident memory of the process without its loader workers, in MiB; on a
    GPU mmengine logs the peak under this name.

    The hook has normal priority and therefore runs after mmengine's timer.

    Args:
        interval (int): iterations between checks of the wait. Defaults to
            200.
        max_wait (float): share of waiting above which the hook warns.
            Defaults to 0.2.
    """

    def __init__(self, interval: int = 200, max_wait: float = 0.2) -> None:
        self.interval = interval
        self.max_wait = max_wait

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Add the figures to the log."""
        hub = runner.message_hub
        seconds = hub.get_scalar('train/time').current()
        images = len(data_batch['data_samples']) * runner.world_size
        hub.update_scalar('train/images_per_second', images / seconds)
        window = runner.log_processor.window_size
        hub.update_scalar('train/data_wait', _waiting(runner, window))
        if not torch.cuda.is_available() and _MEMORY.exists():
            hub.update_scalar('train/memory', _resident_mebibytes())
        if self.every_n_train_iters(runner, self.interval):
            share = _waiting(runner, self.interval)
            if share > self.max_wait:
                workers = runner.train_dataloader.num_workers
                last = runner.iter + 1
                # mmengine's logger drops a warning that repeats the one
                # before; the iterations make each one different.
                runner.logger.warning(
                    f'Training waited for data {share:.0%} of the time in '
                    f'iterations {last - self.interval + 1} to {last}: raise '
                    f'train_dataloader.num_workers (now {workers}), or put '
                    f'the images on a faster disk; see {Trouble.WAITING}.'
                )


def _resident_mebibytes() -> int:
    """Return the resident memory of this process, on Linux."""
    pages = int(_MEMORY.read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') // 2**20


def _waiting(runner: Runner, window: int) -> float:
    """Return the share of the last iterations' time spent on loading."""
    waited, taken = (
        runner.message_hub.get_scalar(f'train/{name}').mean(window)
        for name in ('data_time', 'time')
    )
    return float(waited / taken)
