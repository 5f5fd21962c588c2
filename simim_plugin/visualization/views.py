"""Pairs of views: their crops, and patches that resemble each other.

All coordinates in a view are in units of its patches. Patch (0, 0) is centred
at 0, so the view begins at -0.5.

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
from .side_by_side import segments, show_both, sparse
from .style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    TEXT,
    Box,
    caption,
    dots,
    halo,
    legend_below,
    new_figure,
    show,
    title,
)


def draw_pair(
    image: np.ndarray,
    views: Sequence[np.ndarray],
    geometry: PairGeometry,
    mask: np.ndarray | Tensor,
    grid: Grid,
    target_grid: Grid | None = None,
) -> Figure:
    """Draw an image with two crops, both views, and one's grid in the other.

    Args:
        image (np.ndarray): (H, W, 3) uint8 RGB, the un-flipped original.
        views (Sequence[np.ndarray]): the online and the target view, uint8
            RGB, of one size.
        geometry (PairGeometry): of this pair, without batch axis.
        mask (np.ndarray | Tensor): (R * C,) or (R, C) bool, True where the
            online view is masked.
        grid (tuple[int, int]): rows and columns of patches of a view.
        target_grid (tuple[int, int], optional): those of the target view.
            Defaults to ``grid``.
    """
    online, target = views
    mask = np.asarray(mask).astype(bool).reshape(grid)
    target_grid = target_grid or grid
    corners = _corners(target_grid)  # (R + 1, C + 1, 2)
    mapped = _in_online(geometry, corners, target_grid, grid)
    # The last panel includes the part of the grid outside the online view.
    low = np.minimum(mapped.min(axis=(0, 1)), -0.5) - 0.15
    high = np.maximum(mapped.max(axis=(0, 1)), np.array(grid) - 0.5) + 0.15
    height, width = high - low
    ratio = min(max(width / height, 0.7), 1.6)
    figure = new_figure(3.55 * (3 + ratio), 4.5)
    crops, masked, whole, predicted = figure.subplots(
        1, 4, width_ratios=[1, 1, 1, ratio]
    )
    _draw_crops(crops, image, geometry)

    _draw_view(masked, online, mask, BLUE)
    note = f'{mask.sum()} of {mask.size} patches masked'
    title(masked, 'Online view', note + _mirrored(geometry.online))
    _legend(masked, {'masked patches': GREY})

    _draw_view(whole, target, np.zeros(target_grid), ORANGE)
    _draw_grid(whole, corners)
    title(whole, 'Target view', 'never masked' + _mirrored(geometry.target))
    _legend(whole, {'its patches': ORANGE}, dot='the first one')

    _draw_view(predicted, online, mask, BLUE)
    _draw_grid(predicted, mapped)
    predicted.set(xlim=(low[1], high[1]), ylim=(high[0], low[0]))
    note = 'target patches in the online view'
    title(predicted, 'What the decoder predicts', note)
    _legend(predicted, {'target patches': ORANGE}, dot='the first one')
    return figure


def draw_matches(
    pairs: Sequence[Sequence[np.ndarray]],
    columns: Mapping[str, PatchMatches],
) -> Figure:
    """Draw lines from target patches to their nearest online patches.

    Only target patches with their centre inside the online view are drawn.

    Args:
        pairs (Sequence[Sequence[np.ndarray]]): P pairs of the online and
            the target view, (H, W, 3) uint8 RGB.
        columns (Mapping[str, PatchMatches]): a title, for example 'After
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
            _draw_match(axes, name if row == 0 else '', views, matches, row)
    near, far = 'within one patch of the true', 'elsewhere'
    looks = {near: (GREEN, '-'), far: (RED, '--')}
    legend_below(figure, looks, 'outside lower center', 2)
    return figure


def _draw_match(
    axes: Axes,
    name: str,
    views: Sequence[np.ndarray],
    matches: PatchMatches,
    row: int,
) -> None:
    """Draw the target view, the online view to its right, and the lines."""
    inside, correct = matches.inside[row], matches.correct[row]
    found = correct[inside].sum()
    drawn, thinned = sparse(inside)
    note = f'{found} of {inside.sum()} patches find their partner{thinned}'
    title(axes, name, note)
    rows, cols = matches.grid
    online, target = views
    shift = show_both(axes, (target, online), matches.grid, 1.5)
    for text, left in (('target view', 0.0), ('online view', shift)):
        caption(axes, left + cols / 2 - 0.5, rows - 0.3, text)
    axes.set_ylim(rows + 0.4, -0.6)
    lines = segments(drawn, matches.nearest[row], shift)
    hits = correct[drawn].numpy()
    # Correct matches are drawn last, on top.
    for chosen, colour, dashes in (
        (lines[~hits], RED, (0, (4, 2))),
        (lines[hits], GREEN, 'solid'),
    ):
        strokes = LineCollection(chosen, colors=colour, linestyles=[dashes])
        strokes.set(linewidth=1.1, alpha=0.85)
        axes.add_collection(strokes)
        dots(axes, chosen.reshape(-1, 2), 13, color=colour)


def _draw_crops(axes: Axes, image: np.ndarray, geometry: PairGeometry) -> None:
    """Draw the image with the outlines of both crops."""
    height, width = image.shape[:2]
    show(axes, image, (0, 0, width, height))
    for view, colour in ((geometry.online, BLUE), (geometry.target, ORANGE)):
        top, left, height, width = view.box.tolist()
        _outline(axes, (left, top, width, height), colour)
    # The geometric mean of the scales along both axes.
    scale = geometry.scale.log().mean().exp().item()
    note = f'the target crop is {scale:.2f} x as large'
    title(axes, 'One image, two crops', note)
    _legend(axes, {'online crop': BLUE, 'target crop': ORANGE})


def _draw_view(
    axes: Axes, view: np.ndarray, mask: np.ndarray, colour: str
) -> None:
    """Draw a view with its outline, and cover its masked patches."""
    rows, cols = mask.shape
    box = (-0.5, -0.5, cols, rows)
    show(axes, view, box)
    for row, col in np.argwhere(mask):
        cell = Rectangle((col - 0.5, row - 0.5), 1, 1)
        cell.set(facecolor=GREY, edgecolor='white', linewidth=0.6)
        axes.add_patch(cell)
    _outline(axes, box, colour)


def _mirrored(view: View) -> str:
    return ', mirrored' if bool(view.flip) else ''


def _outline(axes: Axes, box: Box, colour: str) -> None:
    frame = Rectangle(box[:2], *box[2:], fill=False)
    frame.set(edgecolor=colour, linewidth=2.5, path_effects=halo(4.5))
    axes.add_patch(frame).set_clip_on(False)


def _corners(grid: Grid) -> np.ndarray:
    """Return patch corners (R + 1, C + 1, 2) (row, column), in patches."""
    lines = [np.arange(n + 1) - 0.5 for n in grid]
    return np.stack(np.meshgrid(*lines, indexing='ij'), axis=-1)


def _in_online(
    geometry: PairGeometry, points: np.ndarray, target_grid: Grid, grid: Grid
) -> np.ndarray:
    """Convert points from target patches to online patches."""
    target, online = (
        torch.tensor(one, dtype=torch.float64) for one in (target_grid, grid)
    )
    inside = (torch.from_numpy(points) + 0.5) / target
    return (geometry.to_online(inside) * online - 0.5).numpy()


def _draw_grid(axes: Axes, corners: np.ndarray) -> None:
    """Draw lines through patch corners, and a dot on the first patch."""
    points = corners[..., ::-1]  # x, y
    lines = [*points, *points.swapaxes(0, 1)]
    axes.add_collection(LineCollection(lines, colors=ORANGE, linewidths=1.1))
    dots(axes, points[:2, :2].mean(axis=(0, 1))[None], 40, color=ORANGE)


def _legend(axes: Axes, squares: Mapping[str, str], dot: str = '') -> None:
    """Add the colour of each name below a panel."""
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
