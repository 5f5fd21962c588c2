"""Random crop for linear probing."""

from __future__ import annotations

import math

import numpy as np
from mmpretrain.datasets import RandomResizedCrop
from mmpretrain.registry import TRANSFORMS

from .evaluation_crop import Antialiased


@TRANSFORMS.register_module()
class SingleDrawCrop(RandomResizedCrop):
    """Random resized crop of a single draw, clamped to the image.

    Clamping a box that does not fit changes its aspect ratio.
    ``RandomResizedCrop`` draws up to ten times instead. The released code
    probes with a single draw (docs/linear.md). The arguments are those of
    ``RandomResizedCrop``; ``max_attempts`` has no effect. Images of other
    numbers of channels than three are resized by torchvision.
    """

    def transform(self, results: dict) -> dict:
        """Crop ``results['img']`` and resize the crop."""
        if results['img'].shape[2:] == (3,):
            return super().transform(results)
        return Antialiased.transform(self, results)  # type: ignore[arg-type]

    def rand_crop_params(self, img: np.ndarray) -> tuple[int, int, int, int]:
        """Draw a box.

        Args:
            img (ndarray): (H, W, 3).

        Returns:
            tuple[int, int, int, int]: top, left, height, width in pixels.
        """
        rows, cols = img.shape[:2]
        area = rows * cols * np.random.uniform(*self.crop_ratio_range)
        low, high = self.aspect_ratio_range
        aspect = math.exp(np.random.uniform(math.log(low), math.log(high)))
        height = min(max(round(math.sqrt(area / aspect)), 1), rows)
        width = min(max(round(math.sqrt(area * aspect)), 1), cols)
        top = np.random.randint(rows - height + 1)
        left = np.random.randint(cols - width + 1)
        return top, left, height, width
