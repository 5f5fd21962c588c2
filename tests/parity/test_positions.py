"""Position embeddings against the released code's, and their laws."""

import pytest
import torch

from simim_plugin.geometry import PairGeometry, View
from simim_plugin.models.positions import absolute_table, relative_embedding

from . import relative_error


@pytest.mark.shared
@pytest.mark.parametrize('name', ['abspos_d32_g4', 'abspos_d768_g14'])
def test_absolute_table(golden, name):
    arrays, info = golden(name)
    grid = (info['grid_size'], info['grid_size'])
    table = absolute_table(grid, info['embed_dim'])[0]
    assert relative_error(table, arrays['table_f64']) < 1e-9
    assert relative_error(table.float(), arrays['table_f32']) < 1e-5


def golden_geometry(arrays) -> PairGeometry:
    """Boxes there are in each view's own flipped image; ours are not."""
    width = torch.from_numpy(arrays['image_w']).double()

    def view(box, flip):
        view = View(torch.from_numpy(box).double(), torch.from_numpy(flip))
        original = View(view.box, ~view.flip).mirrored(width)
        box = torch.where(view.flip[:, None], original.box, view.box)
        return View(box, view.flip)

    return PairGeometry(
        online=view(arrays['box1'], arrays['flip1']),
        target=view(arrays['box2'], arrays['flip2']),
    )


@pytest.mark.shared
@pytest.mark.parametrize('name', ['relpos_d32_g4', 'relpos_d768_g14'])
def test_relative_embedding_of_every_sample(golden, name):
    arrays, info = golden(name)
    grid = (info['grid_size'], info['grid_size'])
    geometry = golden_geometry(arrays)
    for dtype, key, bound in (
        (torch.float64, 'out_f64', 1e-9),
        (torch.float32, 'out_f32', 1e-5),
    ):
        ours = relative_embedding(
            geometry, grid, grid, info['embed_dim'], dtype
        )
        assert ours.dtype is dtype
        for k, sample in enumerate(info['samples']):
            assert relative_error(ours[k], arrays[key][k]) < bound, sample
