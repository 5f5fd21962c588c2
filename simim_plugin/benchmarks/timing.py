"""Time actions in turns, and measure peak memory in a new process."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from torch import Tensor
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop,
    sdpa_flop,
)
from tqdm import tqdm

from ..environment import resident_peak

DEVICE = get_device()


class Timed(float):
    """Seconds or a ratio of them, with the same of CPU time beside it.

    On a machine that others use, only CPU time is steady. Products and
    quotients with numbers and with others of this kind keep both.

    Args:
        wall (float): by the clock.
        cpu (float): of all threads of the process.
        load (float): of the machine at that time, processes that ran.
    """

    cpu: float
    load: float

    def __new__(cls, wall: float, cpu: float, load: float) -> Timed:
        """Make a float of ``wall``."""
        timed = super().__new__(cls, wall)
        timed.cpu, timed.load = cpu, load
        return timed

    def __mul__(self, factor: float) -> Timed:
        return Timed(float(self) * factor, self.cpu * factor, self.load)

    __rmul__ = __mul__

    @classmethod
    def sum(cls, times: Sequence[Timed]) -> Timed:
        """Return the sum of some times, with the load of the last."""
        cpu = sum(time.cpu for time in times)
        return cls(sum(map(float, times)), cpu, times[-1].load)

    def __truediv__(self, other: float) -> Timed:
        cpu = other.cpu if isinstance(other, Timed) else other
        return Timed(
            float(self) / float(other), _ratio(self.cpu, cpu), self.load
        )

    def __rtruediv__(self, other: float) -> Timed:
        return Timed(other / float(self), _ratio(other, self.cpu), self.load)


def _ratio(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else float('nan')


def median_seconds(
    actions: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, Timed]:
    """Time actions in turns, A B C A B C, after one uncounted round.

    Taking turns keeps the ratios fair on a machine whose speed drifts.

    Args:
        actions (Mapping[str, Callable]): by name.
        rounds (int): counted runs of each.

    Returns:
        dict[str, Timed]: median seconds of each, by the clock and of CPU.
    """
    seconds: dict[str, list[tuple[float, float]]] = {n: [] for n in actions}
    turns = [name for _ in range(rounds + 1) for name in actions]
    for name in tqdm(turns, desc='timing', leave=False):
        _synchronize()
        start = time.perf_counter(), time.process_time()
        actions[name]()
        _synchronize()
        taken = time.perf_counter() - start[0], time.process_time() - start[1]
        seconds[name].append(taken)
    load = os.getloadavg()[0]
    return {
        name: middle([Timed(*taken, load) for taken in values[1:]])
        for name, values in seconds.items()
    }


def middle(values: Sequence[Timed]) -> Timed:
    """Return the medians of the wall and of the CPU times."""
    cpu = statistics.median(value.cpu for value in values)
    return Timed(statistics.median(map(float, values)), cpu, values[-1].load)


def count_flops(action: Callable[[], object]) -> int:
    """Count the floating-point operations of an action.

    Products of matrices, convolutions and attention count, on every device.
    """
    with FlopCounterMode(
        display=False, custom_mapping=_ATTENTION_OF_CPUS
    ) as counter:
        action()
    return counter.get_total_flops()


def _of_tensors(formula: Callable[..., int]) -> Any:
    """Mark a formula of torch, which takes tensors and not their shapes."""
    marked: Any = partial(formula)
    marked._get_raw = True
    return marked


_ATEN = torch.ops.aten
_ATTENTION_OF_CPUS = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _of_tensors(sdpa_flop),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _of_tensors(
        sdpa_backward_flop
    ),
}
"""Operators that torch does not count."""


def costs(
    made: Mapping[str, Callable[[], Callable[[], object]]], rounds: int
) -> dict[str, float]:
    """Measure median seconds and peak memory of actions.

    Args:
        made (Mapping[str, Callable]): by name, functions that prepare an
            action and return it, as for :func:`peak_megabytes`.
        rounds (int): counted runs of each.

    Returns:
        dict[str, float]: 'NAME: s' and 'NAME: MB'.
    """
    # Memory first: a small machine may not hold the actions twice.
    megabytes = {
        name: peak_megabytes(prepare) for name, prepare in made.items()
    }
    seconds = median_seconds(
        {name: prepare() for name, prepare in made.items()}, rounds
    )
    figures: dict[str, float] = {}
    for name in made:
        figures[f'{name}: s'] = seconds[name]
        figures[f'{name}: MB'] = megabytes[name]
    return figures


def token_pass(
    module: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    bf16: bool,
    training: bool = True,
) -> Callable[[], object]:
    """Prepare a pass over random tokens: forward and, in training, backward.

    Args:
        module (Callable): maps the tokens.
        shape (Sequence[int]): of the tokens.
        bf16 (bool): under autocast.
        training (bool): also compute gradients. Defaults to True.

    Returns:
        Callable[[], object]: runs it.
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
    """Measure the peak memory of an action.

    Args:
        prepare (Callable): importable function; ``prepare(*args)`` builds
            everything and returns the action. Both run in a new process,
            where no earlier peak hides this one.
        *args: picklable arguments.
        device (str): device of the memory. Defaults to the GPU if there is
            one.

    Returns:
        float: MB (10^6 bytes): on 'cuda' the total GPU memory; else the
        amount by which the action raises the peak of the process.
    """
    context = multiprocessing.get_context('spawn')
    with context.Pool(1) as pool:
        return pool.apply(_peak, (prepare, args, device))


def _peak(
    prepare: Callable[..., Callable[[], object]], args: tuple, device: str
) -> float:
    # At INFO mmengine logs the initialisation of every tensor.
    MMLogger.get_instance('mmengine', log_level='WARNING')
    action = prepare(*args)
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        action()
        return torch.cuda.max_memory_allocated() / 1e6
    before = resident_peak()
    action()
    return (resident_peak() - before) / 1e6
