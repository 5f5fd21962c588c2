"""Tensors of the released code give the features that it computed."""

import pytest
import torch

from simim_plugin.checkpoint import load_backbone
from simim_plugin.checkpoint.export import convert
from simim_plugin.checkpoint.portable import released_forward

from .helpers import our_vit

pytestmark = pytest.mark.shared


def test_target_features_of_the_released_code(golden, tmp_path):
    arrays, info = golden('model_tiny_seedA')
    state = {
        name.removeprefix('state.'): torch.from_numpy(value).float()
        for name, value in arrays.items()
        if name.startswith('state.')
    }
    images = torch.from_numpy(arrays['in.x2']).float()
    expected = torch.from_numpy(arrays['mid.target_encoder_out']).float()
    torch.save(dict(model=state, epoch=0), tmp_path / 'released.pth')
    heads = info['num_heads']
    slim = tmp_path / 'slim.pth'
    convert(
        tmp_path / 'released.pth',
        slim,
        'slim',
        branch='target',
        num_heads=heads,
    )
    arch = dict(
        embed_dims=info['embed_dim'],
        num_layers=info['depth'],
        num_heads=heads,
        feedforward_channels=4 * info['embed_dim'],
    )
    for file, branch in (
        (tmp_path / 'released.pth', 'target'),
        (slim, 'online'),
    ):
        vit = our_vit(arch=arch)
        load_backbone(vit, file, branch=branch)
        with torch.no_grad():
            assert (vit(images)[0] - expected).abs().max() < 1e-5
    # Our version of the released forward pass gives them as well.
    named = {**state}
    for name, value in state.items():
        if name.startswith('mm_'):
            named[name.removeprefix('mm_')] = value
    tokens = released_forward(named, images, heads).tokens
    assert (tokens - expected).abs().max() < 1e-5
