"""Stop on SIGTERM and SIGUSR1 after the current step, with its state saved.

Schedulers (SLURM, spot machines) send these signals shortly before the end.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from .resuming import STOP_NAME

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOP_CODE = 75
"""Exit code of a run to be continued: EX_TEMPFAIL of sysexits.h."""


@contextmanager
def record_stop_signals() -> Iterator[list[int]]:
    """Collect the stop signals received, instead of their effect."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    before = {
        number: signal.signal(number, lambda n, _: received.append(n))
        for number in STOP_SIGNALS
    }
    try:
        yield received
    except SystemExit:
        # Launchers signal the other processes when the first one ends.
        before = dict.fromkeys(STOP_SIGNALS, signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopHook(Hook):
    """End the run after an optimizer step if any process got a signal.

    mmengine's own epoch loop cannot resume in mid-epoch, so under it the run
    keeps its last checkpoint and saves no other.

    Args:
        received (list[int]): list of :func:`record_stop_signals`.
    """

    priority = 'LOWEST'

    def __init__(self, received: list[int]) -> None:
        self.received = received
        self.group: Any = None

    def before_train(self, runner: Runner) -> None:
        """Make a process group that works without waiting for the GPU."""
        if runner.distributed:
            self.group = torch.distributed.new_group(backend='gloo')

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Save and exit, in all processes after the same step.

        Raises:
            SystemExit: with ``STOP_CODE``.
        """
        done = runner.iter + 1
        if done % runner.optim_wrapper._accumulative_counts:
            return
        signalled = torch.tensor(len(self.received))
        all_reduce(signalled, 'max', self.group)
        if not signalled or done == runner.max_iters:
            return
        state = 'the last checkpoint stands'
        if type(runner.train_loop) is not EpochBasedTrainLoop:
            state = STOP_NAME.format(done)
            runner.save_checkpoint(runner.work_dir, state, by_epoch=False)
        barrier(self.group)
        runner.logger.warning(
            f'Stopped by a signal after {done} steps ({state}): exit code '
            f'{STOP_CODE}, continue with --resume.'
        )
        raise SystemExit(STOP_CODE)


def outlive_stop(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a loader worker that only the training process can end.

    Schedulers signal all processes, and the run fails if a worker ends
    first. The worker ignores SIGUSR1, and SIGTERM unless its parent, the
    training process, sends it. ``init`` initialises it further.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    if init is not None:
        init(worker)


def _end_with_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
