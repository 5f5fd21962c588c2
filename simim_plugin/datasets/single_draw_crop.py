"""The crop of linear probing."""

from __future__ import annotations

import math

import numpy as np
from mmpretrain.datasets import RandomResizedCrop
from mmpretrain.registry import TRANSFORMS


@TRANSFORMS.register_module()
class SingleDrawCrop(RandomResizedCrop):
    """A random resized crop of one draw, cut off at the image's border.

    A box that does not fit is clamped, which stretches its aspect ratio;
    ``RandomResizedCrop`` draws again, up to ten times (REFERENCE 8).
    Its arguments are the same, but ``max_attempts`` is not used.
    """

    def rand_crop_params(self, img: np.ndarray) -> tuple[int, int, int, int]:
        """Draw a box.

        Args:
            img (ndarray): (H, W, 3).

        Returns:
            tuple[int, int, int, int]: top, left, height, width, pixels.
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
