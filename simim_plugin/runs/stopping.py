"""Stop on a signal after the current step, with the state saved.

Schedulers (SLURM, spot machines) send SIGTERM or SIGUSR1 shortly before the
end, a user Ctrl-C (SIGINT), and a terminal that closes SIGHUP.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from mmengine.dist import all_reduce, barrier
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..errors import INTERRUPTED
from .answering import process_timeout

STOP_NAME = 'stop_iter_{}.pth'
"""File name of the checkpoint that a stopped run writes."""

STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGHUP,
    signal.SIGINT,
)
STOP_CODE = 75
"""Exit code of a run to be continued: EX_TEMPFAIL of sysexits.h.

After Ctrl-C it is 130, ``INTERRUPTED``: the run is not to be continued.
"""
_MOST_STEPS, _MOST_SECONDS = 10, 5.0
"""Most steps and seconds between two exchanges of signals."""
_SAME_SIGNAL = 1.0
"""Seconds in which two SIGINT are one: a launcher repeats that of the
terminal.
"""


@contextmanager
def record_stop_signals() -> Iterator[list[int]]:
    """Collect the stop signals received, instead of their effect.

    Signals that the program ignores stay ignored, such as SIGHUP under
    ``nohup``. A second SIGINT ends the process at once.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    before = {
        number: signal.signal(number, lambda n, _: received.append(n))
        for number in STOP_SIGNALS
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        with _ending_at_the_second():
            yield received
    except SystemExit:
        # Launchers signal the other processes when the first one ends.
        before = dict.fromkeys(before, lambda *_: None)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ending_at_the_second() -> Iterator[None]:
    """End the process at the second SIGINT, whatever it waits for.

    A thread reads the numbers of the signals: Python calls no handler while
    the main thread waits for other processes.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_count, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)  # ends the thread


def _count(reading: int) -> None:
    first = None
    while numbers := os.read(reading, 64):
        if signal.SIGINT not in numbers:
            continue
        if first is None:
            first = time.monotonic()
            if os.environ.get('LOCAL_RANK', '0') == '0':
                _say(
                    'Ctrl-C: the run saves its state after this step and '
                    'stops; a second Ctrl-C ends it at once.'
                )
        elif time.monotonic() - first > _SAME_SIGNAL:
            end_at_once(
                'Ended at once; --resume continues from the last checkpoint.',
                INTERRUPTED,
            )
    os.close(reading)


def _say(sentence: str) -> None:
    os.write(2, f'\n{sentence}\n'.encode())  # print may be in use


def end_at_once(sentence: str, code: int) -> None:
    """Print a sentence and end the process and its loader workers.

    Any thread may call it, whatever the main thread does.
    """
    _say(sentence)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


class StopHook(Hook):
    """End the run after an optimizer step if any process got a signal.

    Several processes exchange signals after every tenth optimizer step, or
    more often if ten take longer than 5 seconds.

    mmengine's own epoch loop cannot resume in mid-epoch, so under it the run
    keeps its last checkpoint and saves no other.

    Args:
        received (list[int]): list of :func:`record_stop_signals`.
    """

    priority = 'LOWEST'

    def __init__(self, received: list[int]) -> None:
        self.received = received
        self.group: Any = None
        self._wait = 1  # optimizer steps until the next exchange
        self._asked, self._steps = time.monotonic(), 0

    def before_train(self, runner: Runner) -> None:
        """Make a process group that works without waiting for the GPU."""
        if runner.distributed:
            self.group = torch.distributed.new_group(
                backend='gloo', timeout=process_timeout(runner.cfg)
            )

    def _code(self) -> int:
        """Return the exit code that all processes agree on, 0 for none."""
        code = STOP_CODE if self.received else 0
        if signal.SIGINT in self.received:
            code = INTERRUPTED
        if self.group is None:
            return code
        self._steps += 1
        if self._steps < self._wait:
            return 0
        now = time.monotonic()
        taken = max(now - self._asked, 1e-3)
        agreed = torch.tensor([code, taken], dtype=torch.float64)
        all_reduce(agreed, 'max', self.group)
        # The same in all processes, which ask again after the same step.
        self._wait = _most_steps(agreed[1].item(), self._steps)
        self._asked, self._steps = now, 0
        return int(agreed[0])

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Save and exit, in all processes after the same step.

        Raises:
            SystemExit: with ``STOP_CODE``, or after Ctrl-C ``INTERRUPTED``.
        """
        done = runner.iter + 1
        if done % runner.optim_wrapper._accumulative_counts:
            return
        code = self._code()
        if not code or done == runner.max_iters:
            return
        state = 'the last checkpoint stands'
        if type(runner.train_loop) is not EpochBasedTrainLoop:
            state = STOP_NAME.format(done)
            runner.save_checkpoint(runner.work_dir, state, by_epoch=False)
        barrier(self.group)
        runner.logger.warning(
            f'Stopped by a signal after {done} steps ({state}): exit code '
            f'{code}, continue with --resume.'
        )
        raise SystemExit(code)


def _most_steps(seconds: float, steps: int) -> int:
    """Return the number of steps until the next exchange of signals.

    Args:
        seconds (float): that the last ``steps`` have taken, in the slowest
            process.
        steps (int): at least 1.
    """
    return int(min(_MOST_STEPS, max(1.0, _MOST_SECONDS * steps / seconds)))


def outlive_stop(
    worker: int, init: Callable[[int], None] | None = None
) -> None:
    """Start a loader worker that only its parent process can end.

    Schedulers and terminals signal all processes, and the run fails if a
    worker ends first. The worker ignores the stop signals, but not a SIGTERM
    that its parent sends. ``init`` initialises it further.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    if init is not None:
        init(worker)


def _end_with_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
