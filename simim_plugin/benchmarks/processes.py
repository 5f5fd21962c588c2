"""Two processes on two cores beside one process on one core."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from statistics import mean, median
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import SimimError
from ..runs.batch_norm import spanning
from .timing import DEVICE, Timed
from .training import pretraining_step

KINDS = ('one', 'apart', 'together')
"""One process alone; two at once without an exchange; two that exchange the
gradients, the statistics of BatchNorm and the correlation of the loss."""

_Step = tuple[str, int, bool]
_Times = dict[str, list[list[tuple[float, float]]]]
"""Wall and CPU seconds of each process, by kind and turn."""


def measure_processes(
    config: str, batch: int, rounds: int, bf16: bool = False
) -> dict[str, float]:
    """Measure a step of two processes over gloo beside that of one.

    Each process has a core and a thread of its own, and the same batch. The
    kinds are timed in turns.

    Args:
        config (str): packaged pretraining config.
        batch (int): images per step and process.
        rounds (int): counted steps of each kind.
        bf16 (bool): under autocast. Defaults to False.

    Returns:
        dict[str, float]: seconds, CPU time of a process, and ratios.

    Raises:
        SimimError: if there is a GPU, a single core, or no Linux.
    """
    pins = hasattr(os, 'sched_getaffinity')  # Linux
    cores = sorted(os.sched_getaffinity(0))[:2] if pins else []
    if DEVICE != 'cpu' or len(cores) < 2:
        raise SimimError(
            'The part processes needs Linux, two CPU cores and no GPU, and '
            f'here are {len(cores)} cores and the device {DEVICE}; hide a '
            'GPU by CUDA_VISIBLE_DEVICES=.'
        )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    step = config, batch, bf16
    jobs = [_Job(rank, core, None, step) for rank, core in enumerate(cores)]
    jobs += [_Job(rank, core, port, step) for rank, core in enumerate(cores)]
    turns = dict(one=jobs[:1], apart=jobs[:2], together=jobs[2:])
    times: _Times = {kind: [] for kind in KINDS}
    try:
        for job in jobs:
            job.pipe.recv()  # it is ready
        for _ in range(rounds):
            for kind, working in turns.items():
                for job in working:
                    job.pipe.send('step')
                times[kind].append([job.pipe.recv() for job in working])
    except EOFError:
        raise RuntimeError(
            'A process has ended; its error is above.'
        ) from None
    finally:
        for job in jobs:
            job.process.kill()
            job.process.join()
    return _figures(times)


def _figures(times: _Times) -> dict[str, float]:
    """Join the times of both processes: a step ends with the slower one."""
    load = os.getloadavg()[0]
    steps: dict[str, Timed] = {}
    for kind in KINDS:
        slowest = [max(wall for wall, _ in turn) for turn in times[kind]]
        means = [mean(cpu for _, cpu in turn) for turn in times[kind]]
        steps[kind] = Timed(median(slowest), median(means), load)
    one, apart, together = (steps[kind] for kind in KINDS)
    figures: dict[str, float] = {
        f'processes, {kind}: seconds a step': steps[kind] for kind in KINDS
    }
    figures['processes, efficiency: one / together'] = one / together
    figures['processes, without the exchange: one / apart'] = one / apart
    kept = apart / together
    share = Timed(1 - float(kept), 1 - kept.cpu, load)
    figures['processes, share of the exchange'] = share
    return figures


class _Job:
    """A process that makes a training step whenever it is asked.

    Args:
        rank (int): of two.
        core (int): that it runs on.
        port (int, optional): where the two meet. None, they do not.
        step (tuple): config, batch and bf16 of the step.
    """

    def __init__(
        self, rank: int, core: int, port: int | None, step: _Step
    ) -> None:
        context = multiprocessing.get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(rank, core, port, step, theirs), daemon=True
        )
        self.process.start()
        theirs.close()


def _serve(
    rank: int, core: int, port: int | None, step: _Step, pipe: Any
) -> None:
    """Time a step whenever the pipe has a word; send wall and CPU time."""
    MMLogger.get_instance('mmengine', log_level='WARNING')
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    config, batch, bf16 = step
    if port is None:
        run = pretraining_step(config, batch, bf16)
    else:
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        distributed.init_process_group('gloo', rank=rank, world_size=2)
        run = pretraining_step(config, batch, bf16, wrap=_exchanging)
    run()  # the first step is slower
    pipe.send('ready')
    while pipe.recv():
        begun = time.perf_counter(), time.process_time()
        run()
        wall = time.perf_counter() - begun[0]
        pipe.send((wall, time.process_time() - begun[1]))


def _exchanging(model: nn.Module) -> nn.Module:
    """Wrap as the Runner does on CPUs."""
    return DistributedDataParallel(
        spanning(model), broadcast_buffers=False, gradient_as_bucket_view=True
    )
