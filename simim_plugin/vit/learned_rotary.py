"""Rotary positions of CAPI: each block has frequencies, registers a place.

Shape key: B batch, R registers, V visible patches, T = R + V tokens, D
channels of a head.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor, nn

from ..errors import SimimError
from ..geometry import Grid


class EdgeCoordinates(nn.Module):
    """Coordinates of patches, and of registers along the edge around them.

    The first and the last row of patches have the coordinates 0 and 1, and
    the columns too. The registers follow the edge of the box that holds the
    visible patches, at equal steps on each of its four sides.

    Args:
        registers (int): R, a multiple of 4.

    Raises:
        SimimError: for another number.
    """

    kind = 'capi'
    neighbours = False
    on_edge: Tensor

    def __init__(self, registers: int) -> None:
        super().__init__()
        if registers % 4:
            raise SimimError(
                "rotary='capi' puts as many registers on each of the four "
                f'edges, and num_registers is {registers}; set a multiple '
                'of 4.'
            )
        steps = torch.arange(registers // 4) / max(1, registers // 4)
        zeros = torch.zeros_like(steps)
        sides = [
            (steps, zeros),
            (1 + zeros, steps),
            (1 - steps, 1 + zeros),
            (zeros, 1 - steps),
        ]
        on_edge = torch.cat([torch.stack(side, dim=1) for side in sides])
        self.register_buffer('on_edge', on_edge, persistent=False)

    def forward(
        self, grid: Grid, device: torch.device, visible: Tensor | None = None
    ) -> Tensor:
        """Return row and column of all tokens, (B or 1, T, 2) in float32.

        Args:
            grid (tuple[int, int]): rows and columns of the patches.
            device (torch.device): of the result.
            visible (Tensor, optional): (B, V) indices of the patches.
                Defaults to all.
        """
        axes = [torch.linspace(0, 1, n, device=device) for n in grid]
        grids = torch.meshgrid(*axes, indexing='ij')
        placed = torch.stack(grids, dim=-1).flatten(0, 1)[None]  # (1, N, 2)
        if visible is not None:
            placed = placed.take_along_dim(visible[..., None], dim=1)
        low = placed.amin(dim=1, keepdim=True)
        high = placed.amax(dim=1, keepdim=True)
        edge = low + self.on_edge.to(device) * (high - low)
        return torch.cat([edge, placed], dim=1)


def new_frequencies(head_dims: int) -> nn.Parameter:
    """Return angular frequencies (2, D) for rows and for columns.

    One half of the channels has those of rows, from 7 down to 7e-4 turns,
    the other half those of columns. The authors of CAPI hold them.

    Args:
        head_dims (int): D.

    Raises:
        SimimError: if ``head_dims`` is no multiple of 4.
    """
    check_rotary_width(head_dims)
    turns = torch.logspace(0, -4, head_dims // 4) * 7
    half = 2 * pi * torch.cat([turns, turns])
    zeros = torch.zeros_like(half)
    rows, columns = torch.cat([half, zeros]), torch.cat([zeros, half])
    return nn.Parameter(torch.stack([rows, columns]), requires_grad=False)


def learned_rotation(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    """Return cosine and sine (2, ..., T, D) of tokens in a block.

    Args:
        coordinates (Tensor): (..., T, 2) of :class:`EdgeCoordinates`.
        frequencies (Tensor): (2, D) of the block.
    """
    row, column = coordinates.float().split(1, dim=-1)
    rows, columns = frequencies.float()
    # Not a product of matrices, which autocast would round.
    angles = row * rows + column * columns
    return torch.stack([angles.cos(), angles.sin()])


def check_rotary_width(head_dims: int) -> None:
    """Refuse heads whose channels have no rotary positions.

    Raises:
        SimimError: if ``head_dims`` is no multiple of 4.
    """
    if head_dims % 4:
        raise SimimError(
            'Rotary positions need a multiple of 4 channels in each '
            f'attention head, not {head_dims}; change embed_dims or '
            'num_heads of arch.'
        )
