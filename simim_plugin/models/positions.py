"""Fixed sin-cos position embeddings: the absolute table, and the relative
embedding of paper eq. 2 and 3.

Shape key: *B any batch shape, R rows, C columns, N = R x C patches,
D channels, E channels per axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import Grid, PairGeometry


def sincos(values: Tensor, dim: int) -> Tensor:
    """Return the Transformer's sin-cos features of scalars, [sin | cos].

    Args:
        values (Tensor): (*B,) any real values.
        dim (int): width of the result, even. Frequency k of dim / 2 is
            10000^(-k / (dim / 2)).

    Returns:
        Tensor: (*B, dim) in the dtype of ``values``.
    """
    # Made on the device: a copy from the CPU would wait for it.
    exponents = torch.arange(
        dim // 2, dtype=torch.float64, device=values.device
    ) / (dim // 2)
    frequencies = (10000.0**-exponents).to(values.dtype)
    angles = values[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def on_grid(rows: Tensor, cols: Tensor) -> Tensor:
    """Join row features (*B, R, E) and column features (*B, C, E).

    Returns:
        Tensor: (*B, R * C, 2 E), row-major, [row | column].
    """
    r, c = rows.shape[-2], cols.shape[-2]
    rows = rows[..., :, None, :].expand(*rows.shape[:-2], r, c, -1)
    cols = cols[..., None, :, :].expand_as(rows)
    return torch.cat([rows, cols], dim=-1).flatten(-3, -2)


def absolute_table(grid: Grid, dim: int) -> Tensor:
    """Return the absolute position table of a ViT, with a zero cls row.

    The first half of the channels encodes the row, the second half the
    column; MAE's table has the opposite order.

    Args:
        grid (tuple[int, int]): rows R and columns C.
        dim (int): channels D, a multiple of 4.

    Returns:
        Tensor: (1, 1 + N, D) float64.

    Raises:
        ValueError: if ``dim`` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(
            f'A 2-D sin-cos position needs a multiple of 4 channels, not '
            f'{dim}; change the embedding width.'
        )
    rows, cols = (
        sincos(torch.arange(n, dtype=torch.float64), dim // 2) for n in grid
    )
    table = on_grid(rows, cols)
    return torch.cat([table.new_zeros(1, dim), table])[None]


def scaled_table(
    grid: Grid,
    units: Grid,
    dim: int,
    device: torch.device | None = None,
) -> Tensor:
    """Return the absolute positions of a grid in units of another grid.

    Args:
        grid (tuple[int, int]): rows R and columns C.
        units (tuple[int, int]): grid over the same view whose patches are
            the unit. If it equals ``grid``, positions are 0, 1, 2, ...
        dim (int): channels D, a multiple of 4.
        device (torch.device, optional): of the result.

    Returns:
        Tensor: (1, R * C, D) float64, without a row for the cls token.
    """
    rows, cols = (
        sincos(
            torch.arange(0.5, n, dtype=torch.float64, device=device) * (u / n)
            - 0.5,
            dim // 2,
        )
        for n, u in zip(grid, units, strict=True)
    )
    return on_grid(rows, cols)[None]


def relative_features(
    geometry: PairGeometry,
    target_grid: Grid,
    online_grid: Grid,
    dim: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Embed the target patches' positions and scale in the online view.

    Paper eq. 2 (position) and eq. 3 (log scale, times 10). The unit of
    position is an online patch. The paper's embedding of a patch (2 D) is
    [row, column, scale] of its row, its column and its pair. Equal views
    give the rows and columns of :func:`absolute_table`, and the scale
    [sin, cos] = [0, 1].

    Args:
        geometry (PairGeometry): the B pairs of a batch.
        target_grid (tuple[int, int]): rows R and columns C of the target.
        online_grid (tuple[int, int]): rows and columns of the online view.
        dim (int): channels D, a multiple of 4.
        dtype (torch.dtype): dtype of the result. Positions and scales are
            computed in float64; there are only R + C + 2 per image.

    Returns:
        tuple[Tensor, Tensor, Tensor]: of the rows (B, R, D / 2) and of the
        columns (B, C, D / 2), each [sin | cos] of D / 4 frequencies, and of
        the scale (B, D), [log height, log width], each [sin | cos] of D / 4.
    """
    y, x = geometry.positions(target_grid, online_grid)  # (B, R), (B, C)
    log_scale = 10 * geometry.scale.log()  # (B, 2)
    rows, cols, scale = (
        sincos(values.to(dtype), dim // 2) for values in (y, x, log_scale)
    )
    return rows, cols, scale.flatten(-2)


def relative_embedding(
    geometry: PairGeometry,
    target_grid: Grid,
    online_grid: Grid,
    dim: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the relative embedding of paper eq. 2 and 3 in one tensor.

    The decoder maps its parts, :func:`relative_features`, one by one, which
    gives the same with less memory.

    Args:
        geometry, target_grid, online_grid, dim, dtype: as of its parts.

    Returns:
        Tensor: (B, N, 2 D), [row, column, scale].
    """
    rows, cols, scale = relative_features(
        geometry, target_grid, online_grid, dim, dtype
    )
    position = on_grid(rows, cols)  # (B, N, D)
    scale = scale[..., None, :].expand_as(position)
    return torch.cat([position, scale], dim=-1)
