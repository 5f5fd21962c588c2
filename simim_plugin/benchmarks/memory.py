"""Measure the memory of training steps for the table of the recipes."""

from __future__ import annotations

import gc
import json
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..recipes.machine import Held, Machine, Precision
from ..vit.arches import ARCHES, MICRO

ENCODERS = ('micro', 'tiny', 'small', 'base')
"""ViTs that are measured."""

_PATCH = 16
_PICTURES = 168  # more than a batch, also with a part left to test on


class Kind(NamedTuple):
    """A training whose steps are measured.

    Args:
        task (str): of ``configure``.
        method (str, optional): of the task.
        sizes (tuple[int, int]): sides of the images, pixels.
        batches (tuple[int, int]): images of a step.
    """

    task: str
    method: str | None
    sizes: tuple[int, int]
    batches: tuple[int, int]


KINDS = dict(
    pretraining=Kind('pretraining', None, (64, 128), (16, 64)),
    finetune=Kind('classification', 'finetune', (96, 224), (8, 32)),
    linear=Kind('classification', 'linear', (96, 224), (32, 128)),
    vitdet=Kind('detection', None, (224, 448), (1, 4)),
    upernet=Kind('segmentation', 'upernet', (64, 128), (8, 16)),
    seg_linear=Kind('segmentation', 'linear', (64, 128), (4, 32)),
)
"""The measured trainings, by the keys of ``machine.HELD``."""


class Peak(NamedTuple):
    """The peak of a process that trains some steps.

    Args:
        patches (int): of an image.
        batch (int): images of a step.
        gib (float): resident memory.
    """

    patches: int
    batch: int
    gib: float


def measure_peaks(kind: str, encoder: str) -> list[Peak]:
    """Train some steps of several sizes and batches, in a new process.

    Each holds more than the one before, so the peak of the process is its.

    Args:
        kind (str): key of ``KINDS``.
        encoder (str): one of ``ENCODERS``.
    """
    known = KINDS[kind]
    (small, big), (few, many) = known.sizes, known.batches
    parts = dict(small=2, base=4).get(encoder, 1)  # as fast as the others
    few, many = max(few // parts, 1), max(many // parts, 2)
    points = [(small, few), (small, many), (big, many)]
    context = multiprocessing.get_context('spawn')
    ours, theirs = context.Pipe()
    job = context.Process(target=_train, args=(known, encoder, points, theirs))
    job.start()
    theirs.close()
    try:
        return [
            Peak((size // _PATCH) ** 2, batch, ours.recv())
            for size, batch in points
        ]
    finally:
        job.join()


def fit_held(peaks: Sequence[Peak]) -> Held:
    """Return the smallest model of its form that no peak exceeds.

    A step holds a fixed part, and a part of each image that has a constant
    and a part for each patch. Least squares, then the fixed part is raised.
    """
    rows = [[1, one.batch, one.batch * one.patches] for one in peaks]
    table = np.array(rows, float)
    wanted = np.array([one.gib for one in peaks])
    keep = [0, 1, 2]
    found = np.zeros(3)
    while True:  # no part may be negative
        part = np.linalg.lstsq(table[:, keep], wanted, rcond=None)[0]
        if (part >= 0).all():
            break
        keep = [k for k, value in zip(keep, part, strict=True) if value >= 0]
    found[keep] = part
    found[0] += max(0.0, float((wanted - table @ found).max()))
    return Held(found[0], 1024 * found[1], 1024**2 * found[2])


def _train(
    kind: Kind,
    encoder: str,
    points: Sequence[tuple[int, int]],
    answer: Any,
) -> None:
    """Train steps of noise of some sizes and batches; send the peaks, GiB."""
    from ..recipes.configuring import Choices, make_recipe
    from ..recipes.trial import try_step

    precision = Precision('fp32', 'as asked')
    machine = Machine('CPU', 2.0**20, 1, False, precision)
    with tempfile.TemporaryDirectory() as folder:
        data = _write_pictures(Path(folder, 'data'), kind.task)
        weights = _write_encoder(Path(folder, 'encoder.pth'), encoder)
        out = Path(folder, 'mine.py')
        for size, batch in points:
            choices = Choices(
                method=kind.method,
                encoder=str(weights),
                img_size=size,
                batch_size=batch,
                epochs=1,
            )
            recipe = make_recipe(kind.task, str(data), out, choices, machine)
            # The moments of the optimizer are there from the second step on.
            recipe.written.set('optim_wrapper.accumulative_counts', 1)
            recipe.write(out)
            answer.send(try_step(out).memory)
            gc.collect()


def _write_encoder(file: Path, name: str) -> Path:
    """Write an encoder of random weights; no training depends on them."""
    from ..models import SiameseIMViT

    arch = MICRO.arch if name == MICRO.name else ARCHES[name]
    vit = SiameseIMViT(arch=arch, img_size=224, patch_size=_PATCH)
    state = {f'backbone.{k}': v for k, v in vit.state_dict().items()}
    torch.save(dict(state_dict=state), file)
    return file


def _write_pictures(root: Path, task: str) -> Path:
    """Write noise with the labels of a task, of two or three classes."""
    noise = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(_PICTURES):
        pixels = noise.integers(0, 256, (96, 96, 3), np.uint8)
        dense = task in ('detection', 'segmentation')
        folder = 'images' if dense else f'class{k % 2}'
        path = root / folder / f'{k}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        if task == 'segmentation':
            labels = np.zeros((96, 96), np.uint8)
            labels[:, 32:64], labels[:, 64:] = 1, 2
            path = root / 'masks' / f'{k}.png'
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(labels).save(path)
        images.append(dict(id=k, file_name=f'{k}.png', width=96, height=96))
        for n, (x, y) in enumerate(product((8, 56), (8, 56))):
            corners = [x, y, x + 30, y, x + 30, y + 30, x, y + 30]
            about = dict(bbox=[x, y, 30, 30], segmentation=[corners])
            one = dict(id=4 * k + n, image_id=k, category_id=n % 2 + 1)
            annotations.append({**one, **about, 'area': 900, 'iscrowd': 0})
    if task == 'detection':
        content = dict(
            images=images,
            annotations=annotations,
            categories=[dict(id=k, name=f'class{k}') for k in (1, 2)],
        )
        (root / 'instances.json').write_text(json.dumps(content))
    return root


def measured_table() -> Iterator[tuple[str, str, Held]]:
    """Yield the rows of the table."""
    for kind, encoder in product(KINDS, ENCODERS):
        yield kind, encoder, fit_held(measure_peaks(kind, encoder))
