"""Crops of several sizes, and masks of several crops.

Shape key: V crops, G global ones, h x w the size of a crop in pixels, N
patches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from ..datasets import BlockwiseMask
from ..datasets.paired_views import compose, cut
from ..errors import SimimError
from ..geometry import pair


@TRANSFORMS.register_module()
class MultiCropViews(BaseTransform):
    """Cut several views of several sizes out of one decoded image.

    Each is a random resized crop as in :class:`PairedViews`, flipped with
    probability 0.5, with colours of its own.

    **Required Keys:** ``img`` (H, W, C) uint8

    **Modified Keys:** ``img``, the V views, each (h, w, C) uint8

    Args:
        crops (Sequence[dict]): in the order of the views, each with ``size``
            (int | tuple[int, int]), ``crop_scale`` (tuple[float, float]),
            ``number`` of such views (int, at least 1; defaults to 1) and
            ``colours`` (Sequence[dict]; defaults to none).
        aspect_ratio (tuple[float, float]): range of the crop's width /
            height. Defaults to (3/4, 4/3).

    Raises:
        SimimError: for crops without a size, of another key, or of a number
            or a scale out of range.
    """

    def __init__(
        self,
        crops: Sequence[dict],
        aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.crops = [_Crop(**_checked(crop)) for crop in crops]
        self.aspect_ratio = aspect_ratio

    def transform(self, results: dict) -> dict:
        """Replace ``results['img']`` by its views."""
        image = results['img']
        results['img'] = [
            crop.colours({'img': view})['img']
            for crop in self.crops
            for view in (
                cut(image, crop.size, crop.scale, self.aspect_ratio)[0]
                for _ in range(crop.number)
            )
        ]
        results['img_shape'] = self.crops[0].size
        return results

    def __repr__(self) -> str:
        sizes = [(crop.size, crop.number, crop.scale) for crop in self.crops]
        return f'{type(self).__name__}(crops={sizes})'


class _Crop:
    def __init__(
        self,
        size: int | tuple[int, int],
        crop_scale: tuple[float, float],
        number: int = 1,
        colours: Sequence[Any] = (),
    ) -> None:
        self.size = pair(size)
        self.scale = tuple(crop_scale)
        self.number = number
        self.colours = compose(colours)


def _checked(crop: dict) -> dict:
    """Return the arguments of a crop.

    Raises:
        SimimError: naming what is wrong.
    """
    known = {'size', 'crop_scale', 'number', 'colours'}
    if not {'size', 'crop_scale'} <= crop.keys() <= known:
        raise SimimError(
            f'A crop of MultiCropViews has {", ".join(crop)}; give it size '
            'and crop_scale, and number and colours if needed.'
        )
    low, high = crop['crop_scale']
    number = crop.get('number', 1)
    if not 0 < low <= high <= 1 or number < 1 or min(pair(crop['size'])) < 1:
        raise SimimError(
            f'A crop of MultiCropViews has size={crop["size"]}, '
            f'crop_scale={(low, high)} and number={number}; set 0 < low <= '
            'high <= 1, and size and number to at least 1.'
        )
    return crop


@TRANSFORMS.register_module()
class CropMasks(BaseTransform):
    """Mask blocks of patches in some of the global crops, as iBOT does.

    A crop is masked with probability ``prob``. The share of masked patches
    is uniform in ``ratio``.

    **Added Keys:** ``mask``: (G, N) bool, True on masked patches

    Args:
        grid (int | tuple[int, int]): rows and columns of patches.
        ratio (tuple[float, float]): lowest and highest share, above 0 and
            below 1. Defaults to (0.1, 0.5).
        prob (float): above 0, at most 1. Defaults to 0.5.
        num_global (int): G. Defaults to 2.
        min_block (int): see :class:`BlockwiseMask`. Defaults to 4.

    Raises:
        SimimError: for shares or a probability out of range.
    """

    def __init__(
        self,
        grid: int | tuple[int, int],
        ratio: tuple[float, float] = (0.1, 0.5),
        prob: float = 0.5,
        num_global: int = 2,
        min_block: int = 4,
    ) -> None:
        low, high = ratio
        if not 0 < low <= high < 1:
            raise SimimError(
                f'ratio of CropMasks is {(low, high)}; set 0 < low <= high '
                '< 1.'
            )
        if not 0 < prob <= 1:
            raise SimimError(
                f'prob of CropMasks is {prob}, the share of crops that are '
                'masked; set it above 0 and to at most 1.'
            )
        rows, cols = pair(grid)
        least, most = (
            max(1, int(share * rows * cols)) for share in (low, high)
        )
        self.masks = [
            BlockwiseMask((rows, cols), count, min(min_block, count))
            for count in range(least, most + 1)
        ]
        self.patches = rows * cols
        self.prob = prob
        self.num_global = num_global

    def transform(self, results: dict) -> dict:
        """Add ``results['mask']``."""
        results['mask'] = np.stack(
            [
                random.choice(self.masks).draw()
                if random.random() < self.prob
                else np.zeros(self.patches, bool)
                for _ in range(self.num_global)
            ]
        )
        return results
