"""Mask an exact number of patches in blocks, as BEiT does.

MMPretrain's ``BEiTMaskGenerator`` never masks the last row or column with a
block, and does not end if no block fits.

Shape key: N = rows x columns patches.
"""

from __future__ import annotations

import math
import random

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS
from numpy.typing import NDArray

from ..errors import SimimError
from ..geometry import pair

_LOG_ASPECT = math.log(1 / 0.3)
_TRIES = 10


def checked_grid(
    name: str, grid: int | tuple[int, int], num_masked: int
) -> tuple[int, int]:
    """Return rows and columns of the grid of the transform ``name``.

    Raises:
        SimimError: if ``num_masked`` is not in 1 to N - 1.
    """
    rows, cols = pair(grid)
    if not 1 <= num_masked < rows * cols:
        raise SimimError(
            f'Cannot mask {num_masked} of {rows} x {cols} patches: set '
            f'`num_masked` of {name} to 1 to {rows * cols - 1}, so that some '
            'are hidden and some are seen.'
        )
    return rows, cols


def share_of_grid(
    patches: int, before: tuple[int, int], after: tuple[int, int]
) -> int:
    """Return the same share of another grid, at least one patch."""
    return max(1, round(patches * math.prod(after) / math.prod(before)))


@TRANSFORMS.register_module()
class BlockwiseMask(BaseTransform):
    """Mask blocks of patches until exactly ``num_masked`` are masked.

    A block has a uniform area between ``min_block`` and the number of
    patches left to mask (in either order), a log-uniform height / width in
    0.3 to 1 / 0.3, and a uniform place. It is smaller than the grid in both
    directions and masks between one and all of the patches left. If ten
    tries find no such block, random patches fill the rest (docs/method.md).

    **Added Keys:** ``mask``, or another ``key``: (N,) bool, row by row, True
    on masked patches

    Args:
        grid (int | tuple[int, int]): rows and columns of patches.
        num_masked (int): patches to mask, 1 to N - 1.
        min_block (int): smallest area of a block in patches, at least 1,
            while more are left. Defaults to 16, for 14 x 14 patches.
        key (str): key of the mask. Defaults to 'mask', the patches that the
            online branch does not see.

    Raises:
        SimimError: if ``num_masked`` or ``min_block`` is out of range.
    """

    def __init__(
        self,
        grid: int | tuple[int, int],
        num_masked: int,
        min_block: int = 16,
        key: str = 'mask',
    ) -> None:
        rows, cols = checked_grid('BlockwiseMask', grid, num_masked)
        if min_block < 1:
            raise SimimError(
                f'A block of {min_block} patches masks nothing: set '
                '`min_block` of BlockwiseMask to at least 1.'
            )
        self.grid = (rows, cols)
        self.num_masked = num_masked
        self.min_block = min_block
        self.key = key
        # While blocks are drawn, a mask is an int with one bit per patch,
        # row by row. column[h] sets the first bit of the first h rows.
        self._column = [
            sum(1 << (row * cols) for row in range(height))
            for height in range(rows)
        ]

    def on_grid(self, grid: tuple[int, int]) -> BlockwiseMask:
        """Return the same transform for a grid of fewer or more patches.

        It masks the same share of the patches, at least one, and the area of
        its blocks is the same share of the view.
        """
        masked, block = (
            share_of_grid(patches, self.grid, grid)
            for patches in (self.num_masked, self.min_block)
        )
        return type(self)(grid, masked, block, self.key)

    def transform(self, results: dict) -> dict:
        """Add ``results[key]``."""
        results[self.key] = self.draw()
        return results

    def draw(self) -> NDArray[np.bool_]:
        """Draw a mask: (N,) bool, True on ``num_masked`` patches."""
        bits, left = 0, self.num_masked
        while left and (block := self._block(bits, left)):
            bits |= block
            left = self.num_masked - bits.bit_count()
        size = self.grid[0] * self.grid[1]
        octets = bits.to_bytes(math.ceil(size / 8), 'little')
        mask = np.unpackbits(
            np.frombuffer(octets, np.uint8), count=size, bitorder='little'
        ).astype(bool)
        if left:
            visible = np.flatnonzero(~mask).tolist()
            mask[random.sample(visible, left)] = True
        return mask

    def _block(self, bits: int, left: int) -> int:
        """Draw a block that adds 1 to ``left`` patches to ``bits``, or 0."""
        rows, cols = self.grid
        for _ in range(_TRIES):
            area = random.uniform(self.min_block, left)
            aspect = math.exp(random.uniform(-_LOG_ASPECT, _LOG_ASPECT))
            height = round(math.sqrt(area * aspect))
            width = round(math.sqrt(area / aspect))
            if height >= rows or width >= cols:
                continue
            top = random.randint(0, rows - height)
            start = random.randint(0, cols - width)
            block = self._column[height] * ((1 << width) - 1)
            block <<= top * cols + start
            if 0 < (block & ~bits).bit_count() <= left:
                return block
        return 0

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(grid={self.grid}, '
            f'num_masked={self.num_masked}, min_block={self.min_block}, '
            f'key={self.key!r})'
        )
