"""Pictures: what is drawn lies where the numbers say."""

import json

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from simim_plugin.errors import SimimError
from simim_plugin.evaluation import PatchMatches
from simim_plugin.geometry import PairGeometry, View
from simim_plugin.visualization import (
    draw_loss,
    draw_matches,
    draw_pair,
    read_scalars,
)
from simim_plugin.visualization.style import GREEN, GREY, RED

GRID = (4, 6)


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in 'ab']


def geometry_of(online_flip, target_flip):
    return PairGeometry(
        View.of((5, 10, 40, 60), online_flip),
        View.of((12, 0, 60, 50), target_flip),
    )


def strokes(axes):
    """Segments (x, y) by colour."""
    return {
        to_hex(lines.get_colors()[0], keep_alpha=False).upper(): (
            lines.get_segments()
        )
        for lines in axes.collections
        if isinstance(lines, LineCollection) and lines.get_segments()
    }


def boxes(axes):
    """(left, top, width, height, filled with) of every rectangle."""
    return [
        (*box.get_xy(), box.get_width(), box.get_height(), box.get_fill())
        for box in axes.patches
        if isinstance(box, Rectangle)
    ]


@pytest.mark.parametrize('online_flip', [False, True])
@pytest.mark.parametrize('target_flip', [False, True])
def test_target_grid_lies_where_the_geometry_says(
    views, online_flip, target_flip
):
    geometry = geometry_of(online_flip, target_flip)
    image = np.zeros((80, 100, 3), np.uint8)
    figure = draw_pair(image, views, geometry, np.zeros(24, bool), GRID)
    asked = figure.axes[3]
    (lines,) = strokes(asked).values()
    corners = np.stack(lines[: GRID[0] + 1])  # (R + 1, C + 1, 2) x, y
    centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    y, x = geometry.positions(GRID, GRID)
    np.testing.assert_allclose(centres[..., 1], y[:, None].expand(GRID))
    np.testing.assert_allclose(centres[..., 0], x[None].expand(GRID))
    # All of it is inside the picture, and so is the online view.
    left, right = asked.get_xlim()
    bottom, top = asked.get_ylim()
    points = np.concatenate(
        [corners.reshape(-1, 2), [[-0.5, -0.5], [5.5, 3.5]]]
    )
    assert (points > [left, top]).all() and (points < [right, bottom]).all()
    # The dot marks the first patch, which shows which way the grid runs.
    dot = asked.collections[-1].get_offsets()[0]
    np.testing.assert_allclose(dot, [x[0], y[0]])


def test_boxes_and_masked_patches(views):
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[1, 2] = mask[3, 5] = True
    image = np.zeros((80, 100, 3), np.uint8)
    figure = draw_pair(image, views, geometry_of(False, True), mask, GRID)
    original, masked, whole, asked = figure.axes
    assert boxes(original) == [(10, 5, 60, 40, False), (0, 12, 50, 60, False)]
    for axes in (masked, asked):
        grey = [box[:2] for box in boxes(axes) if box[-1]]
        assert grey == [(1.5, 0.5), (4.5, 2.5)]
        assert to_hex(axes.patches[0].get_facecolor()) == GREY
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert '2 of 24 patches masked' in texts
    assert 'never masked, mirrored' in texts
    np.testing.assert_array_equal(masked.images[0].get_array(), views[0])
    np.testing.assert_array_equal(whole.images[0].get_array(), views[1])


def test_matches_join_the_right_patches_in_the_right_colour(views):
    true = torch.full((2, *GRID, 2), -9.0)
    true[1, 0, 1] = torch.tensor([1.0, 2.0])
    true[1, 3, 5] = torch.tensor([0.0, 0.0])
    nearest = torch.zeros(2, *GRID, 2, dtype=torch.long)
    nearest[1, 0, 1] = torch.tensor([2, 2])
    nearest[1, 3, 5] = torch.tensor([0, 4])
    matches = PatchMatches(true, nearest, GRID)
    figure = draw_matches([views, views[::-1]], dict(One=matches, Two=matches))
    first, _, second, _ = figure.axes
    assert strokes(first) == {}
    shift = 1.5 * GRID[1]
    found = {c: np.concatenate(s).tolist() for c, s in strokes(second).items()}
    assert found == {
        GREEN: [[1, 0], [shift + 2, 2]],
        RED: [[5, 3], [shift + 4, 0]],
    }
    texts = [text.get_text() for text in second.texts]
    assert '1 of 2 patches find their partner' in texts
    left, right = second.images
    np.testing.assert_array_equal(left.get_array(), views[0])
    np.testing.assert_array_equal(right.get_array(), views[1])
    assert right.get_extent()[0] == shift - 0.5


def write_log(folder, entries):
    (folder / 'vis_data').mkdir(parents=True)
    lines = [json.dumps(entry) + '\n' for entry in entries]
    (folder / 'vis_data' / 'scalars.json').write_text(''.join(lines))


def entry(step, loss):
    return dict(
        step=step, loss=loss, positive_term=2 * loss, negative_term=-loss, lr=1
    )


def test_scalars_are_those_of_the_newest_run(tmp_path):
    write_log(tmp_path / '20260102_000000', [entry(1, 9.0)])
    newest = [entry(5, 3.0), dict(step=7, accuracy=1.0), entry(10, 2.0)]
    write_log(tmp_path / '20260103_000000', newest)
    assert read_scalars(tmp_path) == dict(
        iteration=[5, 10],
        loss=[3.0, 2.0],
        positive_term=[6.0, 4.0],
        negative_term=[-3.0, -2.0],
    )


def test_missing_scalars_are_said(tmp_path):
    with pytest.raises(SimimError, match='no logged figures loss'):
        read_scalars(tmp_path)
    write_log(tmp_path / '20260102_000000', [dict(step=1, lr=1.0)])
    with pytest.raises(SimimError, match='no logged figures loss'):
        read_scalars(tmp_path)


@pytest.mark.parametrize('points', [1, 3, 200])
def test_loss_curve_shows_every_point_and_their_average(points):
    steps = 5 * np.arange(1, points + 1)
    line = 4.0 - 0.01 * steps
    curve = dict(
        iteration=steps, loss=line, positive_term=-line, negative_term=line**2
    )
    figure = draw_loss(curve)
    for axes, name in zip(figure.axes, list(curve)[1:], strict=True):
        raw, smooth = axes.lines
        np.testing.assert_array_equal(raw.get_xydata().T, [steps, curve[name]])
        # Away from the ends the average of a straight line is the line.
        inner = slice(points // 40, points - points // 40)
        if name != 'negative_term':
            np.testing.assert_allclose(
                smooth.get_ydata()[inner], curve[name][inner], atol=1e-12
            )
    figure.canvas.draw()
