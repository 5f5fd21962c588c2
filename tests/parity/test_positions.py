"""Position embeddings agree with the released code."""

from math import isqrt

import pytest
import torch

from simim_plugin.geometry import PairGeometry, View
from simim_plugin.models.positions import absolute_table, relative_embedding

from . import relative_error

LARGE = pytest.mark.shared


@pytest.mark.parametrize(
    'name', ['abspos_d32_g4', pytest.param('abspos_d768_g14', marks=LARGE)]
)
def test_absolute_table(reference, name):
    arrays = reference(name)
    tokens, dim = arrays['table_f64'].shape
    table = absolute_table((isqrt(tokens), isqrt(tokens)), dim)[0]
    assert relative_error(table, arrays['table_f64']) < 1e-9
    assert relative_error(table.float(), arrays['table_f32']) < 1e-5


def reference_geometry(arrays) -> PairGeometry:
    """Convert boxes of each view's own flipped image to the original."""
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


@pytest.mark.parametrize(
    'name', ['relpos_d32_g4', pytest.param('relpos_d768_g14', marks=LARGE)]
)
def test_relative_embedding_of_every_sample(reference, name):
    arrays = reference(name)
    size, tokens, channels = arrays['out_f64'].shape
    grid = (isqrt(tokens), isqrt(tokens))
    geometry = reference_geometry(arrays)
    for dtype, key, bound in (
        (torch.float64, 'out_f64', 1e-9),
        (torch.float32, 'out_f32', 1e-5),
    ):
        ours = relative_embedding(geometry, grid, grid, channels // 2, dtype)
        assert ours.dtype is dtype
        for k in range(size):
            assert relative_error(ours[k], arrays[key][k]) < bound, k
