"""Two processes on two cores beside one process on one core."""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from torch import distributed, nn
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from ..errors import SimimError
from ..runs.batch_norm import spanning
from .timing import DEVICE, Timed
from .training import RECIPE, pretraining_step

KINDS = ('one', 'apart', 'together')
"""One process alone; two at once without an exchange; two that exchange the
gradients and the statistics of BatchNorm."""

_Times = dict[str, list[tuple[float, float]]]


def measure_processes(
    config: str = RECIPE, batch: int = 8, rounds: int = 5, bf16: bool = False
) -> dict[str, float]:
    """Measure a step of two processes over gloo beside that of one.

    Each process has a core and a thread of its own, and the same batch. The
    kinds are timed in turns.

    Args:
        config (str): packaged pretraining config. Defaults to ViT-B/16.
        batch (int): images per step and process. Defaults to 8.
        rounds (int): counted steps of each kind. Defaults to 5.
        bf16 (bool): under autocast. Defaults to False.

    Returns:
        dict[str, float]: seconds, CPU time of a process, and ratios.

    Raises:
        SimimError: if there is a GPU, or a single core.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if DEVICE != 'cpu' or len(cores) < 2:
        raise SimimError(
            f'The part processes needs two CPU cores and no GPU, and here are '
            f'{len(cores)} on {DEVICE}; hide a GPU by CUDA_VISIBLE_DEVICES=.'
        )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        args = cores, port, config, batch, rounds, bf16, folder
        start_processes(_time, args, nprocs=2, start_method='spawn')
        files = [Path(folder, f'{rank}.json') for rank in (0, 1)]
        times = [json.loads(file.read_text()) for file in files]
    return _figures(times)


def _figures(times: Sequence[_Times]) -> dict[str, float]:
    """Join the times of both processes: a step ends with the slower one."""
    load = os.getloadavg()[0]
    steps: dict[str, Timed] = {}
    for kind in KINDS:
        rounds = zip(*[own[kind] for own in times if own[kind]], strict=True)
        slowest, means = [], []
        for step in rounds:
            wall, cpu = zip(*step, strict=True)
            slowest.append(max(wall))
            means.append(statistics.mean(cpu))
        steps[kind] = Timed(
            statistics.median(slowest), statistics.median(means), load
        )
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


def _time(
    rank: int,
    cores: Sequence[int],
    port: int,
    config: str,
    batch: int,
    rounds: int,
    bf16: bool,
    folder: str,
) -> None:
    """Time the steps of one process, and write the times to a file."""
    MMLogger.get_instance('mmengine', log_level='WARNING')
    os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    distributed.init_process_group('gloo', rank=rank, world_size=2)
    alone = pretraining_step(config, batch, bf16)
    shared = pretraining_step(config, batch, bf16, wrap=_exchanging)
    times: _Times = {kind: [] for kind in KINDS}
    for number in range(rounds + 1):
        for kind in KINDS:
            step = shared if kind == 'together' else alone
            distributed.barrier()
            if kind == 'one' and rank:
                continue
            begun = time.perf_counter(), time.process_time()
            step()
            taken = (
                time.perf_counter() - begun[0],
                time.process_time() - begun[1],
            )
            if number:  # the first step is slower
                times[kind].append(taken)
    Path(folder, f'{rank}.json').write_text(json.dumps(times))
    distributed.barrier()
    os._exit(0)  # torch 2.11 can deadlock when it destroys the group


def _exchanging(model: nn.Module) -> nn.Module:
    """Wrap as the Runner does on CPUs."""
    return DistributedDataParallel(
        spanning(model), broadcast_buffers=False, gradient_as_bucket_view=True
    )
