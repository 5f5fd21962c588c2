"""ViTDet's backbone computes the encoders of every family."""

import pytest
import torch

from simim_plugin.checkpoint import CheckpointError, read_weights
from simim_plugin.detection import SiameseIMViTDet
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIMViT

from ..test_checkpoint.families import TIMM, saved
from ..test_checkpoint.helpers import HEADS, PATCH, SIZE, images, scramble

LARGER = 48
KINDS = [kind for kind in TIMM if not kind.startswith('beit')]


def options(file, windows=None):
    """Return the options of a file for this backbone: all is kept."""
    given = read_weights(file).options(HEADS)
    given['with_cls_token'] = given.get('with_cls_token', True)
    depth = given['arch']['num_layers']
    given['arch']['global_attn_indexes'] = [
        k for k in range(depth) if windows is None
    ]
    return dict(
        given,
        img_size=LARGER,
        pretrain_img_size=SIZE,
        window_size=windows or 14,
        pretrained=str(file),
    )


def built(file, **changes):
    model = SiameseIMViTDet(**{**options(file), **changes})
    scramble(model, seed=99)
    for name, weight in model.named_parameters():
        if 'rel_pos' in name:
            weight.data.zero_()
    table = {
        name: weight.clone()
        for name, weight in model.state_dict().items()
        if 'rel_pos' in name
    }
    model.init_weights()
    model.load_state_dict(table, strict=False)
    model.eval()
    return model


def plain(file, size):
    """Return the features of the classification backbone, (B, C, H, W)."""
    model = SiameseIMViT(
        img_size=SIZE,
        **read_weights(file).options(HEADS),
        out_type='featmap',
        pretrained=str(file),
    )
    model.init_weights()
    model.eval()
    return model(images(size))[0]


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_global_blocks_compute_the_encoder(tmp_path, kind):
    _, file = saved(kind, tmp_path)
    model = built(file)
    for size in (SIZE, LARGER):
        torch.testing.assert_close(
            model(images(size))[0], plain(file, size), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize('kind', ['dinov2-registers', 'dinov3'])
@torch.no_grad()
def test_a_window_that_covers_the_image_is_global(tmp_path, kind):
    _, file = saved(kind, tmp_path)
    wide = SiameseIMViTDet(**options(file, windows=LARGER // PATCH))
    wide.init_weights()
    wide.eval()
    torch.testing.assert_close(
        wide(images(LARGER))[0], plain(file, LARGER), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_registers_see_all_windows(tmp_path):
    """A patch reaches another window through the extra tokens only."""
    _, file = saved('dinov3', tmp_path)
    pixels = images(LARGER)
    changed = pixels.clone()
    changed[..., -1, -1] += 9
    for registers, reached in ((4, True), (0, False)):
        model = SiameseIMViTDet(
            **{
                **options(file, windows=3),
                'num_registers': registers,
                'with_cls_token': False,
                'pretrained': None,
            }
        )
        scramble(model)
        model.eval()
        far = (model(pixels)[0] != model(changed)[0])[..., 0, 0]
        assert far.any() == reached


@pytest.mark.parametrize('with_cp', [False, True])
def test_gradients_reach_every_parameter(tmp_path, with_cp):
    _, file = saved('dinov3-plus', tmp_path)
    model = SiameseIMViTDet(**options(file, windows=3), with_cp=with_cp)
    model.init_weights()
    model.train()
    model(images(40))[0].square().mean().backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None}
    assert not idle


def test_the_relative_bias_of_beit_is_refused(tmp_path):
    _, file = saved('beit', tmp_path)
    given = options(file)
    with pytest.raises(SimimError, match='no place'):
        SiameseIMViTDet(**given)
    del given['relative_bias']
    with pytest.raises(CheckpointError, match='relative_bias=True'):
        SiameseIMViTDet(**given).init_weights()
