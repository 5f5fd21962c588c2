"""Find the grid of patches that a table of positions belongs to.

Shape key: N patches, C channels.
"""

from __future__ import annotations

from math import isqrt, prod

import torch
from torch import Tensor

from ..vit.relative import PLACELESS, bias_rows
from .reading import CheckpointError

Grid = tuple[int, int]


def grid_of(
    table: Tensor,
    file: str,
    given: Grid | None = None,
    goal: Grid | None = None,
    ours: bool = False,
) -> Grid:
    """Return the rows and columns of a table's patches.

    A fixed sin-cos table shows them. A learned table of a square number of
    patches is that of a square; in a file of ours, and for other numbers, it
    has the grid of the model.

    Args:
        table (Tensor): (N, C), without the cls token's row.
        file (str): the source, for the error.
        given (tuple[int, int], optional): the grid that the user names.
        goal (tuple[int, int], optional): the grid of the model.
        ours (bool): whether the file is of this package.

    Raises:
        CheckpointError: if it is not known.
    """
    count = len(table)
    side = isqrt(count)
    if given is not None:
        if min(given) > 0 and given[0] * given[1] == count:
            return given[0], given[1]
        raise CheckpointError(
            f'The checkpoint {file} has positions of {count} patches, which '
            f'are no grid of {given[0]} x {given[1]}; correct grid=(rows, '
            'columns).'
        )
    fixed = fixed_grid(table)
    if fixed is not None:
        return fixed
    fits = goal is not None and goal[0] * goal[1] == count
    if goal is not None and fits and (ours or side**2 != count):
        return goal
    if count and side**2 == count:
        return side, side
    raise CheckpointError(
        f'The checkpoint {file} has learned positions of {count} patches, '
        'which do not show their grid; pass grid=(rows, columns).'
    )


def with_row(
    table: Tensor,
    file: str,
    given: Grid | None,
    goal: Grid | None,
    added: bool,
    bare: bool,
) -> Tensor:
    """Return a table with the cls token's row.

    A table of a square number of rows was given such a row, as one of timm's
    without it. If its grid is no square, it had the row.

    Args:
        table (Tensor): (1, 1 + N, C), (1, N, C) or (1, 2 + N, C).
        file (str): the source, for the error.
        given (tuple[int, int], optional): the grid that the file states or
            the user names.
        goal (tuple[int, int], optional): the grid of the model.
        added (bool): whether the table was given a row.
        bare (bool): whether tables of such encoders lack the row.

    Raises:
        CheckpointError: if both readings are possible.
    """
    known = given or goal
    rows, patches = table.shape[1], prod(known) if known else 0
    if rows == patches:
        return torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    had_row = known is not None and rows == patches + 2
    if not added or rows == patches + 1:
        return table
    if fixed_grid(table[0, 1:]) is not None:
        return table
    if (had_row and given) or fixed_grid(table[0, 2:]) is not None:
        return table[:, 1:]
    if given or (bare and not had_row):
        return table
    grid = ' x '.join(map(str, goal)) if goal and had_row else rows - 2
    side = isqrt(rows - 1)
    raise CheckpointError(
        f'The checkpoint {file} has positions of {grid} patches and a cls '
        f'token, or of {side} x {side} patches; pass grid=(rows, columns), '
        'or --grid of tools/convert.py, whose result states it.'
    )


def bias_grid(
    table: Tensor,
    file: str,
    given: Grid | None = None,
    goal: Grid | None = None,
    ours: bool = False,
) -> Grid:
    """Return the grid of a table of relative position bias.

    Without a grid that is given, the rule is that of learned positions in
    :func:`grid_of`.

    Args:
        table (Tensor): ((2 R - 1) (2 C - 1) + 3, heads).
        file (str): the source, for the error.
        given (tuple[int, int], optional): the grid that the file states or
            the user names.
        goal (tuple[int, int], optional): the grid of the model.
        ours (bool): whether the file is of this package.

    Raises:
        CheckpointError: if it is not known, or the table is not of it.
    """
    count = len(table)
    side = (isqrt(max(count - PLACELESS, 0)) + 1) // 2
    candidates = [given] if given else [goal, (side, side)]
    if not (given or ours):
        candidates.reverse()
    for grid in candidates:
        if grid and min(grid) > 0 and bias_rows(grid) == count:
            return grid
    what, how = 'do not show their grid', 'pass'
    if given:
        what, how = f'are of no grid of {given[0]} x {given[1]}', 'correct'
    raise CheckpointError(
        f'The checkpoint {file} has {count} rows of relative position bias, '
        f'which {what}; {how} grid=(rows, columns).'
    )


def fixed_grid(table: Tensor) -> Grid | None:
    """Return the grid of sin-cos positions (N, C), None for learned ones.

    One half of their channels depends on the row only, the other on the
    column only.
    """
    if table.shape[-1] < 2:
        return None
    for rows in range(1, len(table) + 1):
        columns, rest = divmod(len(table), rows)
        if rest:
            continue
        first, second = table.unflatten(0, (rows, columns)).chunk(2, dim=-1)
        for of_row, of_column in ((first, second), (second, first)):
            if (
                torch.equal(of_row, of_row[:, :1].expand_as(of_row))
                and torch.equal(of_column, of_column[:1].expand_as(of_column))
                and not torch.equal(of_row, of_column)
            ):
                return rows, columns
    return None
