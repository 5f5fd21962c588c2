"""Join the masks and the geometry of a batch in two tensors.

Loader workers make them. The step then neither collates data samples nor
copies tensors of single images.

Shape key: B batch, N patches, V visible patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.registry import FUNCTIONS
from mmpretrain.structures import DataSample
from numpy.typing import NDArray
from torch import Tensor

from ..errors import SimimError
from ..geometry import PairGeometry

_OWN = frozenset({'mask', 'geometry'})
_JOINED = {*_OWN, 'colours'}


class PairSamples:
    """The data samples of a batch of pairs: a sequence of ``DataSample``.

    It makes each sample when it is read. It does not subclass ``Sequence``,
    because torch and mmengine copy a sequence item by item.

    Args:
        records (list[tuple[dict, dict]]): the meta information of each
            sample, and its fields other than ``mask`` and ``geometry``.
        visible (Tensor): (B, V) row-major indices of the patches that the
            masks leave.
        pairs (Tensor): (B, 2, 5), :meth:`PairGeometry.packed`.
        patches (int): N.
        colours (Tensor, optional): (B, 2, 11) draws of the colours that are
            left to the device, see :mod:`simim_plugin.datasets.colour_draws`.
    """

    def __init__(
        self,
        records: list[tuple[dict, dict]],
        visible: Tensor,
        pairs: Tensor,
        patches: int,
        colours: Tensor | None = None,
    ) -> None:
        self.records = records
        self.visible = visible
        self.pairs = pairs
        self.patches = patches
        self.colours = colours

    @classmethod
    def of(cls, samples: Sequence[DataSample]) -> PairSamples:
        """Join data samples that have ``mask`` and ``geometry``.

        Raises:
            SimimError: if the masks hide different numbers of patches, or
                only some samples have ``colours``.
        """
        records = [
            (
                dict(sample.metainfo_items()),
                {k: v for k, v in sample.items() if k not in _JOINED},
            )
            for sample in samples
        ]
        geometry = PairGeometry.stack([s.geometry for s in samples])
        visible = visible_patches([s.mask for s in samples])
        patches = torch.as_tensor(samples[0].mask).numel()
        drawn = drawn_colours(samples)
        colours = None if drawn is None else torch.from_numpy(drawn)
        return cls(records, visible, geometry.packed(), patches, colours)

    @staticmethod
    def visible_of(samples: Sequence[DataSample] | PairSamples) -> Tensor:
        """Return the indices (B, V) of the visible patches of a batch.

        Raises:
            SimimError: if the masks hide different numbers of patches.
        """
        if isinstance(samples, PairSamples):
            return samples.visible
        return visible_patches([torch.as_tensor(s.mask) for s in samples])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> DataSample:
        meta, fields = self.records[index]
        sample = DataSample(metainfo=meta)
        for name, value in fields.items():
            sample.set_field(value, name)
        mask = torch.ones(self.patches, dtype=torch.bool)
        mask[self.visible[index]] = False
        sample.set_mask(mask)
        sample.geometry = PairGeometry.unpacked(self.pairs[index])
        if self.colours is not None:
            sample.colours = self.colours[index].numpy()
        return sample

    def __iter__(self) -> Iterator[DataSample]:
        return (self[k] for k in range(len(self)))

    def field(self, name: str) -> list[Any]:
        """Return one field of all samples, not ``mask`` or ``geometry``."""
        return [fields[name] for _, fields in self.records]

    def swapped(self) -> PairSamples:
        """Return the samples with the roles of their views swapped."""
        pairs = self.pairs.flip(1)
        colours = None if self.colours is None else self.colours.flip(1)
        return PairSamples(
            self.records, self.visible, pairs, self.patches, colours
        )

    def pin_memory(self) -> PairSamples:
        """Return the samples with both tensors in pinned memory.

        The colours are read on the CPU first.
        """
        tensors = self.visible.pin_memory(), self.pairs.pin_memory()
        return PairSamples(self.records, *tensors, self.patches, self.colours)


@FUNCTIONS.register_module()
def collate_pairs(batch: Sequence[dict]) -> dict:
    """Collate as mmengine's ``default_collate``, pairs to `PairSamples`.

    A batch without masks and geometries, or whose masks do not fit each
    other, keeps its list of data samples.
    """
    data = default_collate(batch)
    samples = data.get('data_samples')
    if isinstance(samples, list) and _are_pairs(samples):
        data['data_samples'] = PairSamples.of(samples)
    return data


def _are_pairs(samples: Sequence[Any]) -> bool:
    if not all(
        isinstance(sample, DataSample) and _OWN.issubset(sample.keys())
        for sample in samples
    ):
        return False
    masks = [torch.as_tensor(sample.mask) for sample in samples]
    return all(
        mask.ndim == 1
        and len(mask) == len(masks[0])
        and mask.sum() == masks[0].sum()
        for mask in masks
    )


def drawn_colours(samples: Sequence[DataSample]) -> NDArray | None:
    """Return the draws (B, 2, 11) of colours left to the device, or None.

    Raises:
        SimimError: if only some samples have them.
    """
    drawn = [sample.colours for sample in samples if 'colours' in sample]
    if not drawn:
        return None
    if len(drawn) < len(samples):
        raise SimimError(
            f'{len(samples) - len(drawn)} of {len(samples)} images of a batch '
            'come from a pipeline without PairedViews, so colours=True of '
            'PairDataPreprocessor would not change their colours; remove it '
            'from model.data_preprocessor.'
        )
    return np.stack(drawn)


def visible_patches(masks: Sequence[Tensor]) -> Tensor:
    """Return the indices (B, V) of the patches that B masks (N,) leave.

    Raises:
        SimimError: if the masks hide different numbers of patches.
    """
    hidden = torch.stack([mask.flatten() for mask in masks]).bool()
    counts = hidden.sum(dim=1)
    if (counts != counts[0]).any():
        raise SimimError(
            'The masks of a batch hide different numbers of patches '
            f'({counts.min()} to {counts.max()}); give every image the '
            'same `num_masked`.'
        )
    return (~hidden).nonzero()[:, 1].view(len(hidden), -1)
