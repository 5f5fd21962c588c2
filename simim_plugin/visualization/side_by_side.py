"""Two images side by side, with lines between their patches.

Patch (0, 0) of the left image is centred at 0. The unit is one patch.

Shape key: R x C patches of an image, K lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from .style import show

MOST_LINES = 50
"""The approximate number of lines above which only some are drawn."""


def show_both(
    axes: Axes,
    images: Sequence[np.ndarray],
    grid: Sequence[int],
    spacing: float,
) -> float:
    """Show a left and a right image of ``grid`` patches.

    Their distance is given in image widths and returned in patches.
    """
    rows, cols = grid
    shift = spacing * cols
    for image, left in zip(images, (0.0, shift), strict=True):
        show(axes, image, (left - 0.5, -0.5, cols, rows))
    axes.set_xlim(-0.6, shift + cols - 0.4)
    return shift


def sparse(asked: Tensor) -> tuple[Tensor, str]:
    """Thin out many patches (R, C) bool, to keep their lines distinct.

    Returns:
        tuple[Tensor, str]: the patches to draw (R, C) bool, and a note that
        is empty if all are drawn.
    """
    step = max(1, round((int(asked.sum()) / MOST_LINES) ** 0.5))
    lattice = torch.zeros_like(asked)
    lattice[step // 2 :: step, step // 2 :: step] = True
    note = f'; one in {step**2} is drawn' if step > 1 else ''
    return asked & lattice, note


def segments(chosen: Tensor, partners: Tensor, shift: float) -> np.ndarray:
    """Return lines (K, 2, 2) (x, y) from patches to their partners.

    Args:
        chosen (Tensor): (R, C) bool, K patches of the left image.
        partners (Tensor): (R, C, 2) row and column in the right image.
        shift (float): distance of the images.
    """
    ends = torch.stack([chosen.nonzero(), partners[chosen]], dim=1).double()
    ends[:, 1, 1] += shift
    return ends.flip(-1).numpy()
