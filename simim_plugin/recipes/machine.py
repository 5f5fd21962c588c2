"""Describe the machine, and find how many images fit into a step."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..environment import cpu_has_bf16, usable_cores
from ..errors import SimimError, Trouble
from ..vit.arches import BASE, MICRO, SMALL, TINY

GIB, MIB, KIB = 2**30, 2**20, 2**10


class Precision(NamedTuple):
    """How a step computes, and why.

    Args:
        name (str): 'bf16', 'fp16' (with a gradient scaler) or 'fp32'.
        why (str): the reason, a few words.
    """

    name: str
    why: str


FP32 = Precision('fp32', 'the default')
UNTRIED = Precision('fp32', 'no trial has shown bf16 to be faster')
"""Precision on a processor with bf16, until a step is tried in both."""


@dataclass(frozen=True)
class Machine:
    """The device that trains.

    Args:
        device (str): its name.
        memory (float): memory that is free, GiB.
        cores (int): processor cores.
        gpu (bool): whether it is a GPU.
        precision (Precision): how it trains. Defaults to fp32.
    """

    device: str
    memory: float
    cores: int
    gpu: bool
    precision: Precision = FP32

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
    cores = usable_cores()
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        precision = gpu_precision(torch.cuda.get_device_capability())
        return Machine(name, free / GIB, cores, True, precision)
    precision = cpu_precision(cpu_has_bf16())
    return Machine('CPU', _available() / GIB, cores, False, precision)


def gpu_precision(capability: tuple[int, int]) -> Precision:
    """Return the precision that suits a GPU.

    Args:
        capability (tuple[int, int]): CUDA's compute capability.
    """
    about = '{}.{}'.format(*capability)
    if capability >= (8, 0):
        return Precision('bf16', f'the GPU has it ({about})')
    if capability >= (7, 0):
        return Precision('fp16', f'the GPU has no bf16 ({about})')
    return Precision('fp32', f'the GPU is no faster in less ({about})')


def cpu_precision(bf16: bool | None) -> Precision:
    """Return the precision that suits a processor before any trial.

    Args:
        bf16 (bool, optional): whether it computes in bf16; None if unknown.
    """
    return UNTRIED if bf16 else Precision('fp32', 'the CPU has no bf16')


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
        with open('/sys/fs/cgroup/memory.current') as current:
            used = int(current.read())
        with open('/sys/fs/cgroup/memory.stat') as lines:
            stated = dict(line.split() for line in lines)
        # The kernel drops cached files when programs need the memory.
        used -= int(stated.get('inactive_file', 0))
        free.append(max(most - used, 0))
    return min(free)


class Held(NamedTuple):
    """The peak memory of the process of a training without a GPU.

    Args:
        fixed (float): libraries, weights, gradients and moments, GiB.
        image (float): for each image of a step, MiB.
        patch (float): for each patch of each image, KiB.
    """

    fixed: float
    image: float
    patch: float


# By `python tools/benchmark.py --parts memory`, on two cores.
HELD: dict[str, dict[str, tuple[float, float, float]]] = dict(
    pretraining=dict(
        micro=(0.91, 0.1, 105),
        tiny=(1.04, 0.0, 184),
        small=(1.47, 0.0, 342),
        base=(3.26, 0.0, 494),
    ),
    finetune=dict(
        micro=(0.89, 0.0, 61),
        tiny=(0.94, 0.5, 189),
        small=(1.2, 0.0, 449),
        base=(2.19, 0.0, 752),
    ),
    linear=dict(
        tiny=(0.89, 0.3, 16),
        base=(1.49, 0.0, 21),
    ),
    vitdet=dict(
        micro=(1.0, 13.1, 148),
        tiny=(1.06, 21.6, 337),
        small=(1.3, 0.0, 739),
        base=(2.36, 21.1, 1091),
    ),
    upernet=dict(
        micro=(0.97, 3.0, 337),
        tiny=(1.08, 0.7, 700),
        small=(1.53, 10.8, 1038),
        base=(3.43, 4.8, 1436),
    ),
    seg_linear=dict(
        tiny=(0.96, 0.2, 39),
        base=(1.48, 0.0, 462),
    ),
)
"""Memory of a step by method and encoder, the values of :class:`Held`: an
upper bound of what was measured in float32."""


def held_by(kind: str, width: int, depth: int) -> Held:
    """Return what an encoder holds by the table.

    It is that of the smallest measured encoder that is as wide and as deep.
    Beyond the last one activations grow with width and depth, and the fixed
    part by 20 bytes for each parameter.

    Args:
        kind (str): key of ``HELD``.
        width (int): channels of a token.
        depth (int): blocks.
    """
    for known in (MICRO, TINY, SMALL, BASE):
        row = HELD[kind].get(known.name)
        if row and known.width >= width and known.depth >= depth:
            return Held(*row)
    held = Held(*HELD[kind]['base'])
    factor = max(width / BASE.width, 1) * max(depth / BASE.depth, 1)
    more = 12 * (depth * width**2 - BASE.depth * BASE.width**2)
    return Held(
        held.fixed + 20 * max(more, 0) / GIB,
        held.image * factor,
        held.patch * factor,
    )


class Need(NamedTuple):
    """Memory of a training step, bytes.

    Args:
        fixed (float): of a step without images.
        image (float): of each image.
    """

    fixed: float
    image: float

    def gib(self, batch: int) -> float:
        """Return the memory of a batch, GiB."""
        return (self.fixed + batch * self.image) / GIB


def need(
    kind: str,
    machine: Machine,
    sizes: tuple[int, int],
    side: int,
    patch: int,
    masks: bool = False,
    classes: int = 0,
) -> Need:
    """Return the memory of a training step.

    That of a processor is measured. That of a GPU follows from the sizes of
    the model; its factors are rough, and a trial step corrects the batch.

    Args:
        kind (str): key of ``HELD``.
        machine (Machine): that trains.
        sizes (tuple[int, int]): width and depth of the encoder.
        side (int): of the images, pixels.
        patch (int): side of a patch, pixels.
        masks (bool): of a detector. Defaults to False.
        classes (int): whose scores a segmentor has at each pixel.
    """
    tokens = (side // patch) ** 2
    scores = 4 * _SCORES * classes * side**2
    if not machine.gpu:
        held = held_by(kind, *sizes)
        image = held.image * MIB + held.patch * KIB * tokens
        return Need(held.fixed * GIB, image + scores)
    width, depth = sizes
    half = machine.precision.name != 'fp32'
    parameters = 12 * depth * width**2 * (2.2 if kind == 'pretraining' else 1)
    parameters += dict(vitdet=20e6, upernet=30e6, seg_linear=30e6).get(kind, 0)
    block = tokens * width * (60 if half else 100)
    wide = 1 if half else 2
    image = block * _BLOCKS[kind](depth) + scores
    if kind == 'vitdet':
        heads = 0.6 * GIB if masks else 0.35 * GIB
        image += (side**2 * 450 + heads) * wide
    elif kind == 'upernet':
        image += side**2 / 16 * width * 60 * wide
    return Need(20 * parameters, image)


_SCORES = 4  # copies: of the decoder, resized, their loss and its gradient
_BLOCKS = dict(
    pretraining=lambda depth: 0.45 * depth + 9,
    finetune=lambda depth: depth,
    linear=lambda depth: 2,
    vitdet=lambda depth: depth,
    upernet=lambda depth: depth,
    seg_linear=lambda depth: 2,
)
"""Blocks whose activations a step holds, of a depth."""


class Room(NamedTuple):
    """The memory that a micro-step is expected to need, GiB.

    Args:
        needed (float): by the table.
        free (float): of the machine.
        gpu (bool): whose trial step decides.
    """

    needed: float
    free: float
    gpu: bool

    def __str__(self) -> str:
        """Return the comment of a config."""
        return f'about {self.needed:.1f} of {self.free:.1f} GiB'


def fit_batch(
    machine: Machine, step: Need, most: int, asked: int | None, least: int = 1
) -> tuple[int, Room]:
    """Return the images of a micro-step and the memory that they need.

    Args:
        machine (Machine): has the memory.
        step (Need): memory of a step.
        most (int): largest batch.
        asked (int, optional): the user's choice.
        least (int): smallest batch. Defaults to 1.

    Raises:
        SimimError: see :func:`largest_batch`.
    """
    batch = asked or largest_batch(machine, step, most, least)
    return batch, Room(step.gib(batch), machine.memory, machine.gpu)


def largest_batch(
    machine: Machine, step: Need, most: int, least: int = 1
) -> int:
    """Return the largest power of two that fits 70 % of the memory.

    Args:
        machine (Machine): has the memory.
        step (Need): memory of a step.
        most (int): largest batch.
        least (int): smallest batch, which may take all of the memory.
            Defaults to 1.

    Raises:
        SimimError: if a CPU has no memory for that. A GPU tries.
    """
    if not machine.gpu and step.gib(least) > machine.memory:
        images = 'one image' if least == 1 else f'{least} images'
        raise SimimError(
            f'A step of {images} takes about {step.gib(least):.1f} GiB, and '
            f'{machine.memory:.1f} GiB are free; lower --img-size, take a '
            f'smaller encoder, or set --batch-size {least} to try all the '
            f'same; see {Trouble.OUT_OF_MEMORY}.'
        )
    batch = least
    while batch * 2 <= most and step.gib(batch * 2) <= 0.7 * machine.memory:
        batch *= 2
    return batch
