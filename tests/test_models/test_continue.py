"""Pretraining continues from an encoder of any family."""

import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from simim_plugin.checkpoint import CheckpointError, read_weights
from simim_plugin.config_files import config_path
from simim_plugin.models import SiameseIMViT
from simim_plugin.settings import check_settings

from ..test_checkpoint.families import TIMM, saved
from ..test_checkpoint.helpers import (
    DIMS,
    HEADS,
    PATCH,
    SIZE,
    images,
    scramble,
)
from .helpers import small_batch, small_config

GRID = (SIZE // PATCH, SIZE // PATCH)


def continued(file, **options):
    """Build a SiameseIM that starts from an encoder."""
    config = small_config(grid=GRID, patch=PATCH)
    config['backbone'] = dict(
        type='SiameseIMViT',
        img_size=SIZE,
        **{**read_weights(file).options(HEADS), **options},
    )
    config['projector']['in_dims'] = DIMS
    model = MODELS.build(dict(config, pretrained=str(file)))
    model.init_weights()
    return model


@pytest.mark.parametrize('kind', TIMM)
def test_both_branches_start_from_the_encoder(tmp_path, kind, logged):
    library, file = saved(kind, tmp_path)
    model = continued(file).eval()
    with torch.no_grad():
        wanted = library.forward_features(images())
        online = model.backbone(images())[0]
        target = model.target['backbone'](images())[0]
    assert (online - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert torch.equal(online, target)
    lines = [line for line in logged if 'projector' in line]
    assert lines == [
        'The target encoder starts from the same weights; the projector and '
        'the decoder are new'
    ]
    losses = model.train().loss(*small_batch(grid=GRID, patch=PATCH))
    losses['loss'].backward()
    assert losses['loss'].isfinite()
    idle = [
        name
        for name, weight in model.backbone.named_parameters()
        if weight.requires_grad and weight.grad is None
    ]
    assert not idle


@pytest.mark.parametrize('kind', TIMM)
def test_visible_patches_keep_their_places(tmp_path, kind):
    """All patches in another order give the same features in that order."""
    _, file = saved(kind, tmp_path)
    backbone = continued(file).backbone.eval()
    order = torch.stack([torch.randperm(GRID[0] * GRID[1]) for _ in images()])
    with torch.no_grad():
        (whole,) = backbone(images())
        found = backbone(images(), order)
    extra = backbone.num_extra_tokens
    patches = whole[:, extra:].take_along_dim(order[..., None], dim=1)
    wanted = torch.cat([whole[:, :extra], patches], dim=1)
    assert torch.allclose(found, wanted, atol=1e-5 * wanted.abs().max())


def test_the_packaged_config_of_dinov2(tmp_path):
    """With the file of timm's DINOv2 ViT-S/14, at random weights."""
    library = scramble(timm.create_model('vit_small_patch14_dinov2')).eval()
    torch.save(library.state_dict(), tmp_path / 'dinov2.pth')
    name = (
        'siamese_im_vit-small-p14_1xb256-accum4-amp-coslr-100e_'
        'continue-dinov2.py'
    )
    config = Config.fromfile(config_path(name))
    assert not check_settings(config, config.text)
    kinds = [hook['type'] for hook in config.custom_hooks]
    assert kinds[:2] == ['MomentumHook', 'HoldBackboneHook']
    model = MODELS.build(
        dict(config.model, pretrained=str(tmp_path / 'dinov2.pth'))
    )
    model.init_weights()
    assert (model.backbone.layers[3].attn.gamma1.weight != 1).all()
    batch = small_batch(size=2, grid=(16, 16), patch=14, masked=154)
    assert model.loss(*batch)['loss'].isfinite()


def test_the_options_of_the_file_are_named(tmp_path):
    _, file = saved('dinov2-registers', tmp_path)
    with pytest.raises(CheckpointError) as error:
        continued(file, num_registers=0, layer_scale_init_value=0.0)
    assert 'patch_size=8, num_registers=4, final_norm=True' in str(error.value)
    assert 'layer_scale_init_value=1.0, norm_cfg=' in str(error.value)


def test_depths_of_extra_tokens():
    vit = SiameseIMViT(
        arch='tiny', img_size=32, num_registers=4, pre_norm=True
    )
    depths = {
        name: vit.get_layer_depth(f'backbone.{name}', 'backbone.')[0]
        for name in ('cls_token', 'registers', 'pre_norm.weight')
    }
    assert set(depths.values()) == {0}
    assert vit.get_layer_depth('layers.11.ln1.weight')[0] == 12
