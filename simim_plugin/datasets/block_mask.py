"""Block-wise masking of patches, with exactly the asked number (BEiT).

MMPretrain's ``BEiTMaskGenerator`` never puts a block into the last row or
column and has no end where no block fits; hence our own.

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

_LOG_ASPECT = math.log(1 / 0.3)
_TRIES = 10


def checked_grid(
    name: str, grid: int | tuple[int, int], num_masked: int
) -> tuple[int, int]:
    """Rows and columns of a grid on which that many patches can be masked.

    Raises:
        SimimError: naming the transform, if they cannot.
    """
    rows, cols = (grid, grid) if isinstance(grid, int) else grid
    if not 0 <= num_masked < rows * cols:
        raise SimimError(
            f'Cannot mask {num_masked} of {rows} x {cols} patches: set '
            f'`num_masked` of {name} between 0 and {rows * cols - 1}, so '
            'that the online branch sees at least one patch.'
        )
    return rows, cols


@TRANSFORMS.register_module()
class BlockwiseMask(BaseTransform):
    """Mask blocks of patches until exactly ``num_masked`` are masked.

    A block's area is uniform between ``min_block`` and the number still to
    be masked (also where that is the smaller one), its height / width
    log-uniform in 0.3 to 1 / 0.3, its place uniform. It must be smaller than
    the grid in both directions and add between one patch and the number
    still to be masked; where ten tries find none, patches drawn at random
    fill the rest (REFERENCE 3.5).

    **Added Keys:** ``mask`` (N,) bool, row by row, True on masked patches;
    or another ``key``

    Args:
        grid (int | tuple[int, int]): rows and columns of patches.
        num_masked (int): 0 to N - 1.
        min_block (int): smallest block drawn at first, in patches, at least
            1. Defaults to 16, meant for 14 x 14 patches.
        key (str): where to put the patches drawn. Defaults to 'mask', those
            that the online branch does not see.

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
        # A mask under work is an int with a bit per patch, row by row;
        # column[h] has the first bit of each of the first h rows.
        self._column = [
            sum(1 << (row * cols) for row in range(height))
            for height in range(rows)
        ]

    def transform(self, results: dict) -> dict:
        """Add ``results[key]``."""
        results[self.key] = self.draw()
        return results

    def draw(self) -> NDArray[np.bool_]:
        """Draw a mask: (N,) bool with ``num_masked`` times True."""
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
        """A block that adds 1 to ``left`` patches to ``bits``, or 0."""
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
