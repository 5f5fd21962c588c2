"""Resize and centre crop of images of any number of channels."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

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
    """

    def __init__(self, size: int, edge: int | None = None) -> None:
        self.size = size
        self.edge = edge or round(size * 256 / 224)

    def transform(self, results: dict) -> dict:
        """Resize and crop ``results['img']``."""
        image = results['img']
        height, width = image.shape[:2]
        # As torchvision, which rounds the long edge down.
        scale = self.edge / min(height, width)
        shape = (
            (self.edge, int(width * scale))
            if height <= width
            else (int(height * scale), self.edge)
        )
        resized = resize(np.ascontiguousarray(image), shape)
        top, left = (round((side - self.size) / 2) for side in shape)
        results['img'] = resized[
            top : top + self.size, left : left + self.size
        ]
        results['img_shape'] = (self.size, self.size)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, edge={self.edge})'
