"""Properties of the pair geometry and of the relative embedding."""

import pickle

import torch
from hypothesis import given
from hypothesis import strategies as st

from simim_plugin.geometry import PairGeometry, View
from simim_plugin.models.positions import (
    absolute_table,
    on_grid,
    relative_embedding,
)

WIDTH, HEIGHT = 500, 375
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def views(draw):
    height = draw(st.integers(20, HEIGHT))
    width = draw(st.integers(20, WIDTH))
    top = draw(st.integers(0, HEIGHT - height))
    left = draw(st.integers(0, WIDTH - width))
    return View.of((top, left, height, width), draw(st.booleans()))


pairs = st.builds(PairGeometry, views(), views())


def close(a, b):
    return torch.allclose(a, b, rtol=0, atol=1e-9)


@given(views(), grids)
def test_equal_views_give_the_absolute_table(view, grid):
    geometry = PairGeometry.stack([PairGeometry(view, view)])
    dim = 16
    embedding = relative_embedding(geometry, grid, grid, dim, torch.float64)
    position, scale = embedding[0].split(dim, dim=-1)
    assert close(position, absolute_table(grid, dim)[0, 1:])
    sin, cos = scale.unflatten(-1, (2, 2, dim // 4)).unbind(-2)
    assert close(sin, torch.zeros_like(sin))
    assert close(cos, torch.ones_like(cos))


@given(pairs, grids, grids)
def test_mirroring_the_image_changes_nothing(pair, target, online):
    mirrored = PairGeometry(
        pair.online.mirrored(WIDTH), pair.target.mirrored(WIDTH)
    )
    for ours, theirs in zip(
        pair.positions(target, online),
        mirrored.positions(target, online),
        strict=True,
    ):
        assert close(ours, theirs)
    assert close(pair.scale, mirrored.scale)


@given(views())
def test_mirroring_twice_is_the_identity(view):
    again = view.mirrored(WIDTH).mirrored(WIDTH)
    assert torch.equal(again.box, view.box)
    assert torch.equal(again.flip, view.flip)


@given(st.lists(pairs, min_size=1, max_size=3))
def test_pickling_keeps_values_and_types(members):
    for pair in (members[0], PairGeometry.stack(members)):
        again = pickle.loads(pickle.dumps(pair))
        for ours, theirs in (
            (again.online, pair.online),
            (again.target, pair.target),
        ):
            assert torch.equal(ours.box, theirs.box)
            assert torch.equal(ours.flip, theirs.flip)
            assert ours.box.dtype == torch.float64
            assert ours.flip.dtype == torch.bool


@given(pairs, st.integers(1, 9))
def test_toggling_both_flags_mirrors_the_columns(pair, g):
    toggled = PairGeometry(
        View(pair.online.box, ~pair.online.flip),
        View(pair.target.box, ~pair.target.flip),
    )
    y, x = pair.positions((g, g), (g, g))
    y_toggled, x_toggled = toggled.positions((g, g), (g, g))
    assert close(y, y_toggled)
    assert close(x_toggled, g - 1 - x.flip(-1))


@given(pairs, grids, st.integers(-40, 40), st.integers(-40, 40))
def test_translation_shifts(pair, grid, down, right):
    shift = torch.tensor([down, right, 0, 0], dtype=torch.float64)
    moved = PairGeometry(
        pair.online, View(pair.target.box + shift, pair.target.flip)
    )
    y, x = pair.positions(grid, grid)
    y_moved, x_moved = moved.positions(grid, grid)
    height, width = pair.online.size
    sign = pair.online.direction[1]
    assert close(y_moved, y + grid[0] * down / height)
    assert close(x_moved, x + sign * grid[1] * right / width)


@given(pairs)
def test_inverse_maps_points_back(pair):
    points = torch.rand(7, 2, dtype=torch.float64)
    there = pair.to_online(points)
    assert close(pair.inverse().to_online(there), points)


@given(views(), views(), views())
def test_composition(a, b, c):
    points = torch.rand(7, 2, dtype=torch.float64)
    by_b = PairGeometry(a, b).to_online(PairGeometry(b, c).to_online(points))
    assert close(PairGeometry(a, c).to_online(points), by_b)


@given(pairs, grids, grids)
def test_positions_are_mapped_patch_centres(pair, target, online):
    rows, cols = target
    y, x = pair.positions(target, online)
    table = on_grid(y[:, None], x[:, None])  # (N, 2)
    centres = torch.tensor(
        [
            [(r + 0.5) / rows, (c + 0.5) / cols]
            for r in range(rows)
            for c in range(cols)
        ],
        dtype=torch.float64,
    )
    mapped = pair.to_online(centres) * torch.tensor(online) - 0.5
    assert close(table, mapped)


@given(st.lists(pairs, min_size=1, max_size=4), grids)
def test_stack_equals_its_members(members, grid):
    stacked = PairGeometry.stack(members)
    y, x = stacked.positions(grid, grid)
    for k, member in enumerate(members):
        y_k, x_k = member.positions(grid, grid)
        assert close(y[k], y_k)
        assert close(x[k], x_k)


def test_flip_worked_by_hand():
    """The target is the mirrored right half of a 100-pixel image."""
    pair = PairGeometry(
        View.of((0, 0, 100, 100), False), View.of((0, 50, 100, 50), True)
    )
    y, x = pair.positions((2, 2), (4, 4))
    assert y.tolist() == [0.5, 2.5]
    # Patch centres at 87.5 and 62.5 pixels are 3.5 and 2.5 patches of 25.
    assert x.tolist() == [3.0, 2.0]


def test_dtype_applies_to_boxes_only():
    pair = PairGeometry(
        View.of((0, 0, 10, 10), False), View.of((5, 0, 10, 10), True)
    )
    for view, flip in zip(
        vars(pair.to(torch.float32)).values(), (False, True), strict=True
    ):
        assert view.box.dtype == torch.float32
        assert view.flip.dtype == torch.bool
        assert bool(view.mirrored(WIDTH).flip) is not flip
