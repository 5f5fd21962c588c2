"""Positions of grids that are not square keep their grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpretrain.models.utils import resize_pos_embed

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    read_weights,
)
from simim_plugin.checkpoint.export import convert
from simim_plugin.checkpoint.grids import bias_grid, fixed_grid, grid_of
from simim_plugin.checkpoint.portable import Portable
from simim_plugin.models.positions import absolute_table
from simim_plugin.vit.relative import resize_bias

from .helpers import HEADS, PATCH, images, our_vit, timm_vit, wrap

SIDES = st.integers(2, 12)


@given(rows=SIDES, columns=SIDES, other_order=st.booleans())
def test_a_fixed_table_tells_its_grid(rows, columns, other_order):
    table = absolute_table((rows, columns), 16)[0, 1:]
    if other_order:  # MAE's: first the columns
        table = table.roll(8, dims=1)
    assert fixed_grid(table) == (rows, columns)
    assert grid_of(table, 'file') == (rows, columns)
    assert fixed_grid(table + torch.randn(table.shape)) is None


def test_the_grid_of_a_learned_table():
    table = torch.randn(144, 16)
    assert grid_of(table, 'x') == (12, 12)
    assert grid_of(table, 'x', goal=(14, 14)) == (12, 12)
    assert grid_of(table, 'x', goal=(9, 16)) == (12, 12)
    assert grid_of(table, 'x', goal=(9, 16), ours=True) == (9, 16)
    assert grid_of(table[:96], 'x', goal=(8, 12)) == (8, 12)
    assert grid_of(table, 'x', given=(16, 9)) == (16, 9)
    with pytest.raises(CheckpointError, match='no grid of 9 x 9; correct'):
        grid_of(table, 'x', given=(9, 9))
    with pytest.raises(CheckpointError, match=r'96 patches.*pass grid='):
        grid_of(table[:96], 'x', goal=(14, 14))


def test_the_grid_of_a_relative_bias():
    """2 x 14 patches have as many rows as 5 x 5."""
    table = torch.randn(84, 2)
    assert bias_grid(table, 'x') == (5, 5)
    assert bias_grid(table, 'x', goal=(2, 14)) == (5, 5)
    assert bias_grid(table, 'x', goal=(2, 14), ours=True) == (2, 14)
    assert bias_grid(table, 'x', given=(14, 2)) == (14, 2)
    assert bias_grid(table[:24], 'x', goal=(2, 4)) == (2, 4)
    with pytest.raises(CheckpointError, match='no grid of 4 x 8; correct'):
        bias_grid(table, 'x', given=(4, 8))
    with pytest.raises(CheckpointError, match=r'108 rows.*; pass grid='):
        bias_grid(torch.randn(108, 2), 'x', goal=(5, 5))


@pytest.mark.parametrize('grid', [(4, 8), (2, 14)])
@torch.no_grad()
def test_a_relative_bias_keeps_its_grid(tmp_path, grid):
    options = dict(relative_bias=True, absolute_positions=False)
    vit = our_vit(img_size=[n * PATCH for n in grid], **options)
    file, out = save(vit, tmp_path / 'a.pth'), tmp_path / 'out.pth'
    report = convert(file, out, 'slim', num_heads=HEADS, grid=grid)
    assert f'images of {grid[0] * PATCH} x {grid[1] * PATCH}:' in report
    assert read_weights(out).grid == grid
    one, two = (our_vit(img_size=5 * PATCH, **options) for _ in range(2))
    load_backbone(one, file, grid=grid)
    load_backbone(two, out)
    tables = [x.layers[0].attn.bias_table for x in (vit, one, two)]
    assert torch.equal(tables[1], resize_bias(tables[0], grid, (5, 5)))
    assert torch.equal(tables[1], tables[2])
    with pytest.raises(CheckpointError, match='no grid of 6 x 8; correct'):
        convert(file, tmp_path / 'b', 'slim', num_heads=HEADS, grid=(6, 8))


def encoder(rows, columns):
    vit = our_vit(img_size=(rows * PATCH, columns * PATCH))
    vit.pos_embed.data = absolute_table((rows, columns), 64).float()
    return vit


def save(vit, file):
    torch.save(wrap(vit.state_dict(), 'backbone.'), file)
    return file


@pytest.mark.parametrize('goal', [(18, 32), (12, 12), (16, 9), (9, 16)])
def test_positions_are_interpolated_from_their_grid(tmp_path, goal):
    wide = encoder(9, 16)  # as many patches as 12 x 12
    file = save(wide, tmp_path / 'wide.pth')
    found = our_vit(img_size=(goal[0] * PATCH, goal[1] * PATCH))
    load_backbone(found, file)
    right = resize_pos_embed(wide.pos_embed, (9, 16), goal, 'bicubic', 1)
    torch.testing.assert_close(found.pos_embed, right, rtol=0, atol=0)


def test_a_grid_that_the_user_names(tmp_path):
    wide = encoder(9, 16)
    torch.nn.init.normal_(wide.pos_embed)
    file = save(wide, tmp_path / 'wide.pth')
    found = our_vit(img_size=(18 * PATCH, 32 * PATCH))
    load_backbone(found, file, grid=(9, 16))
    right = resize_pos_embed(wide.pos_embed, (9, 16), (18, 32), 'bicubic', 1)
    torch.testing.assert_close(found.pos_embed, right, rtol=0, atol=0)
    report = convert(
        file, tmp_path / 'timm.pth', 'timm', num_heads=4, grid=(9, 16)
    )
    assert f'img_size=({9 * PATCH}, {16 * PATCH})' in report


@pytest.mark.parametrize('to', ['timm', 'hf', 'onnx', 'slim', 'plugin'])
def test_exports_keep_the_grid(tmp_path, to):
    """Each writer compares features of pictures of this size."""
    file = save(encoder(3, 5), tmp_path / 'wide.pth')
    ending = '.onnx' if to == 'onnx' else ''
    report = convert(file, tmp_path / f'out{ending}', to, num_heads=4)
    assert f'images of {3 * PATCH} x {5 * PATCH}' in report


# With the cls token's row, (4, 6) has as many rows as 5 x 5 without it.
LEARNED = [(4, 6), (4, 9), (3, 5), (2, 7)]


def learned(folder, grid, **options):
    """Save an encoder of timm; return the file and the model."""
    vit = timm_vit(img_size=(grid[0] * PATCH, grid[1] * PATCH), **options)
    torch.save(vit.state_dict(), folder / 'learned.pth')
    return folder / 'learned.pth', vit


def view(grid):
    return images(72)[..., : grid[0] * PATCH, : grid[1] * PATCH]


@pytest.mark.parametrize('options', [{}, dict(no_embed_class=True)])
@pytest.mark.parametrize('to', ['hf', 'slim', 'plugin'])
@pytest.mark.parametrize('grid', LEARNED)
@torch.no_grad()
def test_exports_state_the_grid(tmp_path, grid, to, options):
    """The next reader needs no grid, to load it or to convert it."""
    file, vit = learned(tmp_path, grid, **options)
    out, last = tmp_path / 'out', tmp_path / 'last.pth'
    convert(file, out, to, num_heads=HEADS, grid=grid)
    wanted = vit.forward_features(view(grid))
    assert read_weights(out).grid == grid
    found = Portable(read_weights(out))(view(grid)).tokens
    assert (found - wanted).abs().max() < 1e-5
    assert f'{grid[0] * PATCH} x {grid[1] * PATCH}' in convert(
        out, last, 'timm'
    )
    for size in (grid, (8, 8)):
        one, two = (
            our_vit(final_norm=True, img_size=[n * PATCH for n in size])
            for _ in range(2)
        )
        load_backbone(one, file, grid=grid)
        load_backbone(two, out)
        assert torch.equal(one.pos_embed, two.pos_embed)


@pytest.mark.parametrize('goal', [None, (4, 6), (8, 8)])
def test_two_possible_grids_are_refused(tmp_path, goal):
    file, vit = learned(tmp_path, (4, 6))
    with pytest.raises(CheckpointError, match=r'a cls token, or of 5 x 5 pa'):
        if goal is None:
            convert(file, tmp_path / 'out', 'slim', num_heads=HEADS)
        else:
            size = [n * PATCH for n in goal]
            load_backbone(our_vit(final_norm=True, img_size=size), file)
    convert(file, tmp_path / 'o', 'slim', num_heads=HEADS, grid=(4, 6))
    bare, vit = learned(tmp_path, (5, 5), no_embed_class=True)
    convert(bare, tmp_path / 'bare', 'slim', num_heads=HEADS, grid=(5, 5))
    found = Portable(read_weights(tmp_path / 'bare')).backbone
    assert torch.equal(found.pos_embed[:, 1:], vit.pos_embed)
    assert not found.pos_embed[:, 0].any()


def test_fixed_positions_show_the_row(tmp_path):
    file, vit = learned(tmp_path, (4, 6))
    table = absolute_table((4, 6), 64).float()
    torch.save({**vit.state_dict(), 'pos_embed': table}, file)
    assert Portable(read_weights(file), HEADS).grid == (4, 6)
