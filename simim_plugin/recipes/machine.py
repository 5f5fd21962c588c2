"""What the machine has, and how many images a step of it may hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The device that trains.

    Args:
        device (str): its name.
        memory (float): memory that is free, GiB.
        cores (int): processor cores.
        gpu (bool): whether it is a GPU.
    """

    device: str
    memory: float
    cores: int
    gpu: bool

    @property
    def workers(self) -> int:
        """Worker processes of a data loader."""
        return max(1, min(self.cores - 1, 8))

    def __str__(self) -> str:
        """Return the device, its memory and the cores."""
        cores = f'{self.cores} core{"s" * (self.cores != 1)}'
        return f'{self.device}, {self.memory:.1f} GiB free, {cores}'


def this_machine() -> Machine:
    """Return the first GPU, or the processor if there is none."""
    cores = os.cpu_count() or 1
    if hasattr(os, 'sched_getaffinity'):
        cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Machine(name, free / GIB, cores, gpu=True)
    return Machine('CPU', _available() / GIB, cores, gpu=False)


def _available() -> int:
    """Return the bytes that programs may take, also in a container."""
    free = [os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
    with suppress(OSError, KeyError, ValueError):
        with open('/proc/meminfo') as lines:
            stated = dict(line.split(':') for line in lines)
        free = [int(stated['MemAvailable'].split()[0]) * 1024]
    with suppress(OSError, ValueError):  # 'max' is no number
        with open('/sys/fs/cgroup/memory.max') as limit:
            most = int(limit.read())
        with open('/sys/fs/cgroup/memory.current') as used:
            free.append(max(most - int(used.read()), 0))
    return min(free)


class Cost:
    """Estimated memory of a training step, bytes.

    Activations follow from the sizes of the model; the factors are rough, and
    a trial step corrects the batch on a GPU.

    Args:
        width (int): channels of a token.
        depth (int): blocks.
        tokens (int): patches of an image.
        gpu (bool): bf16 on a GPU, else float32.
    """

    def __init__(self, width: int, depth: int, tokens: int, gpu: bool) -> None:
        self.parameters = 12 * depth * width**2
        self.block = tokens * width * (60 if gpu else 100)
        self.depth = depth
        self.width = width
        self.pixel_bytes = 1 if gpu else 2
        self.tokens = tokens

    def classifier(self, frozen: bool) -> float:
        """Return the activations of one image."""
        return self.block * (2 if frozen else self.depth)

    def siamese(self) -> float:
        """Return the same of a pair of views, most of one masked."""
        return self.block * (0.45 * self.depth + 9)

    def detector(self, pixels: int, masks: bool) -> float:
        """Return the same with the pyramid and the heads."""
        heads = 0.6 * GIB if masks else 0.35 * GIB
        pyramid = pixels * 450 * self.pixel_bytes
        return self.block * self.depth + pyramid + heads * self.pixel_bytes

    def segmentor(self, pixels: int, frozen: bool) -> float:
        """Return the same with the pyramid and UPerNet."""
        if frozen:
            return self.block * 2
        heads = pixels / 16 * self.width * 60 * self.pixel_bytes
        return self.block * self.depth + heads


def largest_batch(
    machine: Machine,
    image: float,
    parameters: float,
    most: int,
    fixed: Callable[[float], float] = lambda parameters: 20 * parameters,
) -> tuple[int, float]:
    """Return the largest power of two that fits, and its memory in GiB.

    Args:
        machine (Machine): its free memory counts to 70 %.
        image (float): bytes of one image.
        parameters (float): of the model.
        most (int): largest batch.
        fixed (Callable): from parameters to bytes of weights, gradients,
            moments and a target encoder.
    """
    room = 0.7 * machine.memory * GIB - fixed(parameters)
    batch = 1
    while batch * 2 <= most and batch * 2 * image <= room:
        batch *= 2
    return batch, (fixed(parameters) + batch * image) / GIB
