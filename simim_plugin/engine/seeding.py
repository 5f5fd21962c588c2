"""Seed each image of each epoch and each training step independently.

Random choices then depend neither on the worker that loads an image, nor on
how far workers read ahead, nor on earlier interruptions of the run, and no
random state needs saving.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmpretrain.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import Dataset


def seed_by(*numbers: int) -> None:
    """Seed the generators of Python, NumPy and torch from some numbers.

    Args:
        *numbers (int): not negative. Different inputs give independent
            streams; trailing zeros are ignored.
    """
    words = np.random.SeedSequence(numbers).generate_state(4)
    seed = int.from_bytes(words.tobytes(), 'little')
    random.seed(seed)
    np.random.seed(words)
    # torch.manual_seed is slow while CUDA is not initialised.
    torch.default_generator.manual_seed(seed % 2**63)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed % 2**63)


class Draw(NamedTuple):
    """An image in an epoch of a run; its views depend on nothing else."""

    seed: int
    epoch: int
    image: int


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """mmengine's sampler, able to start anywhere in an epoch.

    The order depends on the seed and the epoch, so seeking reads no data.
    The sampler yields :class:`Draw` for :class:`SeededDataset`. All processes
    have equally many: without ``round_up`` an epoch leaves some images out,
    fewer than there are processes.

    Args:
        *args: those of mmengine's ``DefaultSampler``.
        **kwargs: likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.round_up:
            # mmengine gives some processes an image more than others.
            self.num_samples = len(self.dataset) // self.world_size
        self.first = 0
        self.last = 0

    def trim(self, multiple: int) -> None:
        """Cut an epoch to a multiple of ``multiple`` images per process."""
        self.num_samples -= self.num_samples % multiple

    def start(self, epoch: int, first: int, last: int | None = None) -> None:
        """Choose the images of the next iteration over the sampler.

        Args:
            epoch (int): where it starts.
            first (int): how many images of that epoch it skips.
            last (int, optional): the last epoch that it goes on through.
                Defaults to ``epoch``.
        """
        self.epoch, self.first = epoch, first
        self.last = epoch if last is None else last

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        """Iterate over the rest of the epoch, and the epochs after it."""
        return self._draws(self.epoch, self.first, max(self.epoch, self.last))

    def _draws(self, epoch: int, first: int, last: int) -> Iterator[Draw]:
        yield from self.of_epoch(epoch, first)
        for following in range(epoch + 1, last + 1):
            yield from self.of_epoch(following, 0)

    def of_epoch(self, epoch: int, first: int) -> Iterator[Draw]:
        """Iterate over an epoch from its image ``first`` on."""
        kept, self.epoch = self.epoch, epoch
        images = super().__iter__()  # reads the epoch at once
        self.epoch = kept
        rest = islice(images, first, self.num_samples)
        return (Draw(self.seed, epoch, image) for image in rest)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Make each item of a data set from its own seed.

    Args:
        dataset (Dataset | dict): the data set.
    """

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        seed_by(*draw)
        return self.dataset[draw.image]

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # not yet set while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)
