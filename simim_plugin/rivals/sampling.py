"""The order of images of the supervised recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmpretrain.registry import DATA_SAMPLERS

from ..engine.seeding import Draw, SeededSampler
from ..errors import SimimError


@DATA_SAMPLERS.register_module()
class RepeatedSampler(SeededSampler):
    """Draw each image several times in a row, as DeiT does.

    Each copy is augmented on its own, and several processes share the
    copies. An epoch has as many images as the set, so it sees a part of it.

    Args:
        *args: see :class:`simim_plugin.engine.SeededSampler`.
        repeats (int): copies of an image, at least 1. Defaults to 3.
        **kwargs: see :class:`simim_plugin.engine.SeededSampler`.

    Raises:
        SimimError: for less than one copy.
    """

    def __init__(self, *args: Any, repeats: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if repeats < 1:
            raise SimimError(
                f'repeats of RepeatedSampler is {repeats}; set it to at '
                'least 1.'
            )
        self.repeats = repeats

    def of_epoch(self, epoch: int, first: int) -> Iterator[Draw]:
        """Iterate over an epoch from its image ``first`` on."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.arange(len(self.dataset))
        if self.shuffle:
            order = torch.randperm(len(order), generator=generator)
        for number in range(first, self.num_samples):
            place = self.rank + number * self.world_size
            image = int(order[place // self.repeats % len(order)])
            # A copy is drawn as if it were of a far epoch.
            copy = place % self.repeats << 32
            yield Draw(self.seed, epoch + copy, image)
