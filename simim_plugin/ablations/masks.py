"""Uniform random masking of patches, as in MAE.

Shape key: N = rows x columns patches.
"""

from __future__ import annotations

import random

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from numpy.typing import NDArray

from ..datasets.block_mask import checked_grid, share_of_grid


@TRANSFORMS.register_module()
class RandomMask(BaseTransform):
    """Mask exactly ``num_masked`` patches, drawn without replacement.

    **Added Keys:** ``key`` (N,) bool, row-major, True on the patches drawn

    Args:
        grid (int | tuple[int, int]): rows and columns of patches.
        num_masked (int): number of patches to draw, 1 to N - 1.
        key (str): key of the result. Defaults to 'mask', the patches hidden
            from the online branch.

    Raises:
        SimimError: if ``num_masked`` is out of range.
    """

    def __init__(
        self, grid: int | tuple[int, int], num_masked: int, key: str = 'mask'
    ) -> None:
        self.grid = checked_grid('RandomMask', grid, num_masked)
        self.num_masked = num_masked
        self.key = key

    def on_grid(self, grid: tuple[int, int]) -> RandomMask:
        """Return the same transform for a grid of fewer or more patches.

        It draws the same share of the patches, at least one.
        """
        drawn = share_of_grid(self.num_masked, self.grid, grid)
        return type(self)(grid, drawn, self.key)

    def transform(self, results: dict) -> dict:
        """Add ``results[key]``."""
        results[self.key] = self.draw()
        return results

    def draw(self) -> NDArray[np.bool_]:
        """Draw a mask (N,) bool with ``num_masked`` True entries."""
        mask = np.zeros(self.grid[0] * self.grid[1], bool)
        mask[random.sample(range(len(mask)), self.num_masked)] = True
        return mask

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(grid={self.grid}, '
            f'num_masked={self.num_masked}, key={self.key!r})'
        )
