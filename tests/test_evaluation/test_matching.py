"""Matches of a backbone whose tokens encode the position."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import TRANSFORMS
from torch import nn

import simim_plugin.pretraining  # noqa: F401  # registers the transforms
from simim_plugin.ablations import SameView  # noqa: F401
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import (
    PatchMatches,
    draw_pairs,
    match_patches,
    place_means,
)
from simim_plugin.geometry import PairGeometry, View

SIZE, PATCH = 64, 8
GRID = (SIZE // PATCH, SIZE // PATCH)


class ColourReader(nn.Module):
    """Map the mean colour of a patch to a unique direction."""

    num_extra_tokens = 1
    patch_resolution = GRID

    def forward(self, images):
        angle = F.avg_pool2d(images[:, :2], PATCH).flatten(2).mT * np.pi / 2
        patches = torch.cat([angle.cos(), angle.sin()], dim=-1)
        cls_token = torch.full_like(patches[:, :1], 9.0)
        return (torch.cat([cls_token, patches], dim=1),)


@pytest.fixture
def reader(model_of):
    model = model_of(ColourReader())
    model.data_preprocessor.mean = torch.zeros(3, 1, 1)
    model.data_preprocessor.std = torch.full((3, 1, 1), 255.0)
    return model


def pair(online, target):
    """Cut views from an image with row as red and column as green value."""
    geometry = PairGeometry(View.of(*online), View.of(*target))
    centre = (torch.arange(SIZE, dtype=torch.float64) + 0.5) / SIZE
    points = torch.stack(torch.meshgrid(centre, centre, indexing='ij'), -1)
    views = []
    for view in (geometry.online, geometry.target):
        image = view.to_image(points)
        blue = torch.zeros_like(image[..., :1])
        views.append(torch.cat([image, blue], -1).round().byte().numpy())
    return dict(img=views, geometry=geometry)


@pytest.mark.parametrize('kind', ['PairedViews', 'SameView'])
def test_views_have_their_colours_where_a_device_applies_them(kind):
    colour = [dict(type='Solarize', thr=128, prob=0.5)]
    roles = dict(online=colour, target=colour)
    views = dict(size=16, **dict(colour=colour) if kind[0] == 'S' else roles)
    settings = dict(type=kind, **views)
    draw = np.random.default_rng(0)
    images = [
        dict(img=draw.integers(0, 256, (20, 24, 3), np.uint8))
        for _ in range(8)
    ]
    plain, deferred = (
        draw_pairs(TRANSFORMS.build(one), images, seed=3)
        for one in (settings, dict(settings, defer=True))
    )
    for ours, theirs in zip(deferred, plain, strict=True):
        assert ours.keys() == theirs.keys()
        for view, other in zip(ours['img'], theirs['img'], strict=True):
            assert view.dtype == np.uint8
            assert np.array_equal(view, other)


BOX = (20.0, 30.0, 128.0, 128.0)


@pytest.mark.parametrize('online_flip', [False, True])
@pytest.mark.parametrize('target_flip', [False, True])
@pytest.mark.parametrize(
    'target', [BOX, (52.0, 62.0, 64.0, 64.0), (84.0, 0.0, 128.0, 160.0)]
)
def test_positions_in_tokens_match_every_patch(
    reader, online_flip, target_flip, target
):
    matches = match_patches(
        reader, [pair((BOX, online_flip), (target, target_flip))]
    )
    assert matches.inside.any()
    assert matches.accuracy == 100.0
    # The nearest patch is at most half a patch away.
    error = (matches.nearest - matches.true)[matches.inside].abs()
    assert error.max() <= 0.5 + 0.07  # colours are rounded to 1 / 255


def test_wrong_geometry_lowers_the_accuracy(reader):
    right = pair((BOX, False), (BOX, False))
    mirrored = pair((BOX, False), (BOX, True))
    wrong = dict(img=right['img'], geometry=mirrored['geometry'])
    # Only columns 3 and 4 of 8 stay within one patch when mirrored.
    assert match_patches(reader, [wrong]).accuracy == pytest.approx(25.0)


def test_pairs_keep_their_order_across_batches(reader):
    pairs = [
        pair((BOX, False), ((20.0 + 8 * i, 30.0, 128.0, 128.0), bool(i % 2)))
        for i in range(5)
    ]
    whole = match_patches(reader, pairs)
    parts = match_patches(reader, pairs, batch_size=2)
    assert torch.equal(whole.nearest, parts.nearest)
    for i, one in enumerate(pairs):
        alone = match_patches(reader, [one])
        assert torch.equal(whole.nearest[i], alone.nearest[0])
        assert torch.equal(whole.true[i], alone.true[0])
    assert whole.accuracy == 100.0


def test_accuracy_counts_patches_inside_and_within_one():
    # Four target patches and a 2 x 3 online grid.
    true = torch.tensor([[[[0, 0], [1.4, 2.4]], [[-0.6, 0], [1, 0.5]]]])
    nearest = torch.tensor([[[[0, 2], [1, 2]], [[0, 0], [0, 1]]]])
    matches = PatchMatches(true, nearest, (2, 3))
    assert matches.inside.tolist() == [[[True, True], [False, True]]]
    assert matches.correct.tolist() == [[[False, True], [True, True]]]
    assert matches.accuracy == pytest.approx(100 * 2 / 3)
    # Patches within one, out of 6: 2 x 2 for (0, 0), 1 x 1 for (1.4, 2.4),
    # 2 x 2 for (1, 0.5).
    assert matches.chance == pytest.approx(100 * (4 + 1 + 4) / 18)


def test_no_patch_inside_gives_nan_and_no_pairs_are_refused(reader):
    apart = pair((BOX, False), ((0.0, 170.0, 40.0, 40.0), False))
    assert np.isnan(match_patches(reader, [apart]).accuracy)
    with pytest.raises(SimimError, match='no pairs'):
        match_patches(reader, [])


class PlacedReader(ColourReader):
    """The same, with more channels that only depend on the place."""

    def forward(self, images):
        (tokens,) = super().forward(images)
        place = 4 * torch.eye(tokens.shape[1])
        return (torch.cat([tokens, place.expand(len(tokens), -1, -1)], -1),)


def test_the_part_of_the_place_is_taken_out(reader, model_of):
    """Views of many shifts and flips, so that a place has every content."""
    placed = model_of(PlacedReader())
    placed.data_preprocessor = reader.data_preprocessor
    draw = np.random.default_rng(0)
    boxes = draw.uniform([0, 0, 60, 60], [60, 60, 120, 120], (2, 200, 4))
    flips = draw.random((2, 200)) < 0.5
    pairs = [
        pair(*(((*box,), bool(flip)) for box, flip in zip(b, f, strict=True)))
        for b, f in zip(
            boxes.swapaxes(0, 1), flips.swapaxes(0, 1), strict=True
        )
    ]
    # Patches find the patch of their own place in the other view.
    raw = match_patches(placed, pairs)
    rows, columns = torch.meshgrid(
        *(torch.arange(n) for n in GRID), indexing='ij'
    )
    own = torch.stack([rows, columns], dim=-1).expand_as(raw.nearest)
    assert torch.equal(raw.nearest, own)
    means = place_means(placed, pairs)
    found = match_patches(placed, pairs, place=means)
    alone = match_patches(reader, pairs, place=place_means(reader, pairs))
    assert torch.equal(found.nearest, alone.nearest)
    assert found.accuracy > 2 * raw.accuracy
    for one, other in zip(means, place_means(placed, pairs, 7), strict=True):
        torch.testing.assert_close(one, other)


def test_the_place_of_one_pair_is_refused(reader):
    with pytest.raises(SimimError, match='at least 2 pairs, not 1'):
        place_means(reader, [pair((BOX, False), (BOX, False))])


def test_draws_depend_on_the_seed_only_and_restore_global_states():
    def transform(results):
        draw = random.random(), np.random.rand(), torch.rand(()).item()
        return dict(path=results['img_path'], draw=draw)

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = transform(dict(img_path=''))['draw']
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draw_pairs(transform, ['a', 'b'], seed=3)
    assert transform(dict(img_path=''))['draw'] == expected
    assert draw_pairs(transform, ['a', 'b'], seed=3) == first
    other = draw_pairs(transform, ['a', 'b'], seed=4)
    assert [draw['path'] for draw in first] == ['a', 'b']
    for a, b in zip(first, other, strict=True):
        assert not set(a['draw']) & set(b['draw'])
