"""A pair of views: where they lie, and which patches resemble each other.

Everything in a view is drawn in units of its patches: patch (0, 0) is
centred at 0, so the view begins at -0.5.

Shape key: P pairs, R x C patches of a view, H x W pixels, K matches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from ..evaluation.matching import PatchMatches
from ..geometry import Grid, PairGeometry, View
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    QUIET,
    RED,
    TEXT,
    halo,
    new_figure,
    no_ticks,
    sparse,
    title,
)

Box = tuple[float, float, float, float]
"""Left, top, width and height."""


def draw_pair(
    image: np.ndarray,
    views: Sequence[np.ndarray],
    geometry: PairGeometry,
    mask: np.ndarray | Tensor,
    grid: Grid,
) -> Figure:
    """The image with both crops, the views, and one's grid in the other.

    Args:
        image (np.ndarray): (H, W, 3) uint8 RGB, the un-flipped original.
        views (Sequence[np.ndarray]): the online and the target view, uint8
            RGB, of one size.
        geometry (PairGeometry): of this pair, without batch axis.
        mask (np.ndarray | Tensor): (R * C,) or (R, C) bool, True where the
            online view is masked.
        grid (tuple[int, int]): rows and columns of patches of a view.

    Returns:
        Figure: save it with ``figure.savefig``.
    """
    online, target = views
    mask = np.asarray(mask).astype(bool).reshape(grid)
    view_box = (-0.5, -0.5, grid[1], grid[0])
    corners = _corners(grid)  # (R + 1, C + 1, 2)
    mapped = _in_online(geometry, corners, grid)
    # The last panel also shows what lies outside the online view.
    low = np.minimum(mapped.min(axis=(0, 1)), -0.5) - 0.15
    high = np.maximum(mapped.max(axis=(0, 1)), np.array(grid) - 0.5) + 0.15
    height, width = high - low
    ratio = min(max(width / height, 0.7), 1.6)
    figure = new_figure(3.55 * (3 + ratio), 4.5)
    panels = figure.subplots(1, 4, width_ratios=[1, 1, 1, ratio])

    axes = panels[0]
    _show(axes, image, (0, 0, image.shape[1], image.shape[0]))
    for view, colour in ((geometry.online, BLUE), (geometry.target, ORANGE)):
        top, left, *size = view.box.tolist()
        _outline(axes, (left, top, size[1], size[0]), colour)
    title(axes, 'One image, two crops', _relative_scale(geometry))
    _legend(axes, {'online crop': BLUE, 'target crop': ORANGE})

    axes = panels[1]
    _show(axes, online, view_box)
    _grey_out(axes, mask)
    _outline(axes, view_box, BLUE)
    note = f'{mask.sum()} of {mask.size} patches masked'
    title(axes, 'Online view', note + _mirrored(geometry.online))
    _legend(axes, {'masked patches': GREY})

    axes = panels[2]
    _show(axes, target, view_box)
    _draw_grid(axes, corners)
    _outline(axes, view_box, ORANGE)
    title(axes, 'Target view', 'never masked' + _mirrored(geometry.target))
    _legend(axes, {'its patches': ORANGE}, dot='the first one')

    axes = panels[3]
    _show(axes, online, view_box)
    _grey_out(axes, mask)
    _outline(axes, view_box, BLUE)
    _draw_grid(axes, mapped)
    axes.set_xlim(low[1], high[1])
    axes.set_ylim(high[0], low[0])
    title(
        axes,
        'What the decoder predicts',
        'target patches in the online view',
    )
    _legend(axes, {'target patches': ORANGE}, dot='the first one')
    return figure


def draw_matches(
    pairs: Sequence[Sequence[np.ndarray]],
    columns: Mapping[str, PatchMatches],
) -> Figure:
    """Lines from target patches to their nearest patches, pair by pair.

    Only target patches whose centre lies inside the online view are drawn.

    Args:
        pairs (Sequence[Sequence[np.ndarray]]): P pairs of the online and
            the target view, (H, W, 3) uint8 RGB.
        columns (Mapping[str, PatchMatches]): a title, such as 'After
            pretraining', and the matches of the same P pairs.

    Returns:
        Figure: one row per pair, one column per entry of ``columns``.
    """
    figure = new_figure(6.4 * len(columns), 3.15 * len(pairs) + 0.7)
    panels = figure.subplots(len(pairs), len(columns), squeeze=False)
    for column, (name, matches) in enumerate(columns.items()):
        for row, (axes, views) in enumerate(
            zip(panels[:, column], pairs, strict=True)
        ):
            asked = matches.inside[row]
            found = matches.correct[row][asked]
            note = f'{found.sum()} of {asked.sum()} patches find their partner'
            if (step := sparse(asked)[1]) > 1:
                note += f'; one in {step**2} is drawn'
            title(axes, name if row == 0 else '', note)
            _draw_match(axes, views, matches, row)
    handles = [
        Line2D(
            [], [], color=GREEN, lw=2, label='within one patch of the true'
        ),
        Line2D([], [], color=RED, lw=2, ls='--', label='elsewhere'),
    ]
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=2,
        frameon=False,
        fontsize=TEXT,
    )
    return figure


def _draw_match(
    axes: Axes, views: Sequence[np.ndarray], matches: PatchMatches, row: int
) -> None:
    """Target view on the left, online view on the right, lines between."""
    rows, cols = matches.grid
    online, target = views
    shift = 1.5 * cols
    panels = (('target view', target, 0.0), ('online view', online, shift))
    for name, image, left in panels:
        _show(axes, image, (left - 0.5, -0.5, cols, rows))
        axes.text(
            left + cols / 2 - 0.5,
            rows - 0.3,
            name,
            fontsize=TEXT,
            ha='center',
            va='top',
            color=QUIET,
        )
    axes.set_xlim(-0.6, shift + cols - 0.4)
    axes.set_ylim(rows + 0.4, -0.6)
    asked, _ = sparse(matches.inside[row])  # (R, C)
    start = asked.nonzero().double()  # (K, 2) row, column
    end = matches.nearest[row][asked].double()
    end[:, 1] += shift
    lines = torch.stack([start, end], dim=1).flip(-1).numpy()  # x, y
    correct = matches.correct[row][asked].numpy()
    # The correct ones last, on top.
    for chosen, colour, dashes in (
        (lines[~correct], RED, (0, (4, 2))),
        (lines[correct], GREEN, 'solid'),
    ):
        strokes = LineCollection(chosen, colors=colour, linestyles=[dashes])
        strokes.set(linewidth=1.1, alpha=0.85)
        axes.add_collection(strokes)
        _dots(axes, chosen.reshape(-1, 2), colour, 13)


def _relative_scale(geometry: PairGeometry) -> str:
    """Geometric mean of both directions."""
    scale = geometry.scale.log().mean().exp().item()
    return f'the target crop is {scale:.2f} x as large'


def _mirrored(view: View) -> str:
    return ', mirrored' if bool(view.flip) else ''


def _show(axes: Axes, image: np.ndarray, box: Box) -> None:
    """Show an image where ``box`` says, the y axis downwards."""
    left, top, width, height = box
    extent = (left, left + width, top + height, top)
    axes.imshow(image, extent=extent, interpolation='bicubic')
    no_ticks(axes)


def _outline(axes: Axes, box: Box, colour: str) -> None:
    left, top, width, height = box
    frame = Rectangle((left, top), width, height, fill=False)
    frame.set(edgecolor=colour, linewidth=2.5, path_effects=halo(4.5))
    axes.add_patch(frame).set_clip_on(False)


def _grey_out(axes: Axes, mask: np.ndarray) -> None:
    """Cover the masked patches."""
    for row, col in np.argwhere(mask):
        cell = Rectangle((col - 0.5, row - 0.5), 1, 1)
        cell.set(facecolor=GREY, edgecolor='white', linewidth=0.6)
        axes.add_patch(cell)


def _corners(grid: Grid) -> np.ndarray:
    """(R + 1, C + 1, 2) patch corners (row, column), in patches."""
    lines = [np.arange(n + 1) - 0.5 for n in grid]
    return np.stack(np.meshgrid(*lines, indexing='ij'), axis=-1)


def _in_online(
    geometry: PairGeometry, points: np.ndarray, grid: Grid
) -> np.ndarray:
    """From units of target patches to units of online patches."""
    size = torch.tensor(grid, dtype=torch.float64)
    inside = (torch.from_numpy(points) + 0.5) / size
    return (geometry.to_online(inside) * size - 0.5).numpy()


def _draw_grid(axes: Axes, corners: np.ndarray) -> None:
    """Lines through patch corners, and a dot on the first patch."""
    points = corners[..., ::-1]  # x, y
    lines = [*points, *points.swapaxes(0, 1)]
    axes.add_collection(LineCollection(lines, colors=ORANGE, linewidths=1.1))
    _dots(axes, points[:2, :2].mean(axis=(0, 1))[None], ORANGE, 40)


def _dots(axes: Axes, points: np.ndarray, colour: str, size: float) -> None:
    """Mark points (K, 2) (x, y)."""
    dots = axes.scatter(
        points[:, 0], points[:, 1], size, color=colour, zorder=3
    )
    dots.set(edgecolor='white', linewidth=0.6)


def _legend(axes: Axes, squares: Mapping[str, str], dot: str = '') -> None:
    """Colour by name below a panel."""
    entries = [(name, colour, 's') for name, colour in squares.items()]
    if dot:
        entries.append((dot, ORANGE, 'o'))
    handles = [
        Line2D([], [], color=colour, lw=0, marker=marker, ms=8, label=name)
        for name, colour, marker in entries
    ]
    axes.legend(
        handles=handles,
        loc='upper left',
        bbox_to_anchor=(-0.02, -0.02),
        ncols=2,
        frameon=False,
        fontsize=TEXT,
        handletextpad=0.3,
        columnspacing=1.2,
    )
