"""Random choices that follow from where they are made, not from what ran.

Each image of each epoch and each step starts the random generators from
numbers of its own. So it does not matter which worker makes an image, how far
the workers read ahead, or whether the run was interrupted before, and there
are no random states to keep.
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
    """Start the generators of Python, NumPy and torch from some numbers.

    Args:
        *numbers (int): not negative. Any difference, but for zeros at the
            end, gives streams that have nothing to do with each other.
    """
    words = np.random.SeedSequence(numbers).generate_state(4)
    seed = int.from_bytes(words.tobytes(), 'little')
    random.seed(seed)
    np.random.seed(words)
    # Not torch.manual_seed, which is slow where CUDA waits to be started.
    torch.default_generator.manual_seed(seed % 2**63)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed % 2**63)


class Draw(NamedTuple):
    """An image of an epoch of a run: all that its views depend on."""

    seed: int
    epoch: int
    image: int


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """mmengine's sampler, which can start anywhere in an epoch.

    The order follows from the seed and the epoch, so no data is read to get
    there. It yields :class:`Draw`, for :class:`SeededDataset`.

    Args:
        *args, **kwargs: those of mmengine's ``DefaultSampler``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = 0

    def trim(self, multiple: int) -> None:
        """Make an epoch a multiple of some images in each process."""
        self.num_samples -= self.num_samples % multiple

    def start(self, epoch: int, first: int) -> None:
        """Set the epoch, and how many of its images to leave out."""
        self.epoch, self.first = epoch, first

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        """The rest of the epoch."""
        rest = islice(super().__iter__(), self.first, self.num_samples)
        epoch = self.epoch
        return (Draw(self.seed, epoch, image) for image in rest)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Any data set, each item of which is made from its own seed.

    Args:
        dataset (Dataset | dict): what makes the items.
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
        if name == 'dataset':  # not yet there while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)
