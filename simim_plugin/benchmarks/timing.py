"""Timing in turns, and peak memory in processes of their own."""

from __future__ import annotations

import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from torch import Tensor
from tqdm import tqdm

DEVICE = get_device()


def median_seconds(
    actions: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, float]:
    """Time actions in turns, A B C A B C, after one uncounted round.

    Taking turns keeps the ratios fair on a machine whose speed drifts.

    Args:
        actions (Mapping[str, Callable]): what to time, by name.
        rounds (int): counted runs of each.

    Returns:
        dict[str, float]: median seconds of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    turns = [name for _ in range(rounds + 1) for name in actions]
    for name in tqdm(turns, desc='timing', leave=False):
        _synchronize()
        start = time.perf_counter()
        actions[name]()
        _synchronize()
        seconds[name].append(time.perf_counter() - start)
    return {
        name: statistics.median(values[1:]) for name, values in seconds.items()
    }


def print_costs(
    made: Mapping[str, Callable[[], Callable[[], object]]], rounds: int
) -> None:
    """Print median seconds and peak memory of actions, one a line.

    Args:
        made (Mapping[str, Callable]): by name, what prepares an action and
            returns it; as for :func:`peak_megabytes`.
        rounds (int): counted runs of each.
    """
    # Memory first: a small machine may not hold them twice.
    megabytes = {
        name: peak_megabytes(prepare) for name, prepare in made.items()
    }
    seconds = median_seconds(
        {name: prepare() for name, prepare in made.items()}, rounds
    )
    for name in made:
        print(f'{name:32}{seconds[name]:9.4f} s{megabytes[name]:8.0f} MB')


def token_pass(
    module: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    bf16: bool,
    training: bool = True,
) -> Callable[[], object]:
    """Forward and, in training, backward over random tokens.

    Args:
        module (Callable): takes the tokens.
        shape (Sequence[int]): theirs.
        bf16 (bool): under autocast.
        training (bool): whether to compute gradients. Defaults to True.

    Returns:
        Callable[[], object]: runs it once.
    """
    tokens = torch.rand(*shape, device=DEVICE, requires_grad=training)

    def run() -> None:
        autocast = torch.autocast(DEVICE, torch.bfloat16, enabled=bf16)
        with torch.set_grad_enabled(training), autocast:
            result = module(tokens)
        if training:
            result.sum().backward()

    return run


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_megabytes(
    prepare: Callable[..., Callable[[], object]],
    *args: Any,
    device: str = DEVICE,
) -> float:
    """Peak memory that an action needs beyond what stands before it.

    Args:
        prepare (Callable): importable function; ``prepare(*args)`` builds
            everything and returns the action. Both run in a new process,
            so that no earlier peak hides this one.
        *args: picklable arguments.
        device (str): whose memory counts. Defaults to the GPU's, where
            there is one.

    Returns:
        float: MB (10^6 bytes): of GPU memory in all on 'cuda'; else by
        which the action raises the process's peak.
    """
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
        return pool.apply(_peak, (prepare, args, device))


def _peak(
    prepare: Callable[..., Callable[[], object]], args: tuple, device: str
) -> float:
    action = prepare(*args)
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        action()
        return torch.cuda.max_memory_allocated() / 1e6
    before = _resident_peak()
    action()
    return _resident_peak() - before


def _resident_peak() -> float:
    # Not ru_maxrss, which a new process inherits from the one that made it.
    status = Path('/proc/self/status').read_text()
    (peak,) = re.findall(r'VmHWM:\s+(\d+) kB', status)
    return int(peak) * 1024 / 1e6
