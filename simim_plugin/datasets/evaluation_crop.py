"""Crops of images of any number of channels, antialiased."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.datasets import RandomResizedCrop
from mmpretrain.registry import TRANSFORMS

from ..errors import SimimError
from .paired_views import resize


@TRANSFORMS.register_module()
class EvaluationCrop(BaseTransform):
    """Resize the short edge, antialiased bicubic, and crop the centre.

    For RGB the configs do the same by Pillow, which knows no other numbers of
    channels than 1, 3 and 4.

    **Required Keys:** ``img`` (H, W, N) uint8

    **Modified Keys:** ``img`` (size, size, N); ``img_shape``

    Args:
        size (int): height and width of the crop, pixels.
        edge (int, optional): the short edge, at least ``size``. Defaults to
            256 / 224 of ``size``.

    Raises:
        SimimError: if the edge is shorter.
    """

    def __init__(self, size: int, edge: int | None = None) -> None:
        self.size = size
        self.edge = edge or round(size * 256 / 224)
        if self.edge < size:
            raise SimimError(
                f'EvaluationCrop has edge={edge}, which is shorter than '
                f'size={size}; set it to at least that.'
            )

    def transform(self, results: dict) -> dict:
        """Resize and crop ``results['img']``."""
        image = results['img']
        height, width = image.shape[:2]
        # As torchvision, which rounds the long edge down.
        short = min(height, width)
        shape = self.edge * height // short, self.edge * width // short
        resized = resize(np.ascontiguousarray(image), shape)
        top, left = (round((side - self.size) / 2) for side in shape)
        results['img'] = resized[
            top : top + self.size, left : left + self.size
        ]
        results['img_shape'] = (self.size, self.size)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, edge={self.edge})'


class Antialiased:
    """Base that resizes a random crop by torchvision, before another class.

    Pillow knows no other numbers of channels than 1, 3 and 4, and OpenCV has
    no antialiasing.
    """

    scale: tuple[int, int]

    def transform(self, results: dict) -> dict:
        """Crop ``results['img']`` (H, W, N) uint8 and resize the crop."""
        image = results['img']
        top, left, height, width = self.rand_crop_params(image)  # type: ignore
        crop = image[top : top + height, left : left + width]
        results['img'] = resize(np.ascontiguousarray(crop), self.scale)
        results['img_shape'] = results['img'].shape
        return results


@TRANSFORMS.register_module()
class AnyChannelCrop(Antialiased, RandomResizedCrop):
    """Random resized crop of images of any number of channels, bicubic.

    Arguments are ``scale``, ``crop_ratio_range``, ``aspect_ratio_range`` and
    ``max_attempts`` of :class:`mmpretrain.datasets.RandomResizedCrop`.

    **Required Keys:** ``img`` (H, W, N) uint8

    **Modified Keys:** ``img``, ``img_shape``
    """

    def __init__(
        self,
        scale: int | Sequence[int],
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        max_attempts: int = 10,
    ) -> None:
        super().__init__(
            scale, crop_ratio_range, aspect_ratio_range, max_attempts
        )
