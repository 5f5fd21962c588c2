"""BEiT's bias by relative position.

A table has (2 R - 1) (2 C - 1) rows for the distances of patches on a grid of
R x C, and three for pairs with a token that has no place: query, key, both.

Shape key: T tokens, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Grid

PLACELESS = 3
"""Rows of a table for pairs with a token that has no place."""


def bias_rows(grid: Grid) -> int:
    """Return the number of rows of the table of a grid."""
    rows, columns = grid
    return (2 * rows - 1) * (2 * columns - 1) + PLACELESS


def bias_index(
    grid: Grid, extra: int, device: torch.device | None = None
) -> Tensor:
    """Return which row of a table each pair of tokens has.

    Args:
        grid (tuple[int, int]): R rows and C columns of patches.
        extra (int): tokens before the patches.
        device (torch.device, optional): of the result. Defaults to the
            processor.

    Returns:
        Tensor: (T, T) int64.
    """
    rows, columns = grid
    count = bias_rows(grid) - PLACELESS
    row = torch.arange(rows, device=device).repeat_interleave(columns)
    column = torch.arange(columns, device=device).repeat(rows)
    down = row[:, None] - row[None] + rows - 1
    right = column[:, None] - column[None] + columns - 1
    of_patches = down * (2 * columns - 1) + right
    if not extra:
        return of_patches
    index = row.new_zeros((extra + len(row),) * 2)
    index[extra:, extra:] = of_patches
    index[:extra, :] = count
    index[:, :extra] = count + 1
    index[:extra, :extra] = count + 2
    return index


def relative_bias(table: Tensor, index: Tensor) -> Tensor:
    """Return the bias (..., H, T, T) that a table has at an index.

    Args:
        table (Tensor): (rows, H).
        index (Tensor): (..., T, T) rows of the table.
    """
    return table.T[:, index].movedim(0, -3)


def resize_bias(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Interpolate a table to another grid, bilinear.

    This is Hugging Face's rule. The rows of tokens without a place stay.

    Args:
        table (Tensor): (rows, H).
        old (tuple[int, int]): R and C of the table.
        new (tuple[int, int]): of the result.
    """
    if tuple(old) == tuple(new):
        return table
    sizes = [[2 * n - 1 for n in grid] for grid in (old, new)]
    distances = table[:-PLACELESS].T.unflatten(1, sizes[0])[None]
    if distances.dtype != torch.float64:  # half precision rounds weights
        distances = distances.float()
    distances = F.interpolate(distances, sizes[1], mode='bilinear')
    distances = distances[0].flatten(1).T.to(table.dtype)
    return torch.cat([distances, table[-PLACELESS:]])
