"""ViTDet's backbone computes the encoders of every family."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from simim_plugin import config_path
from simim_plugin.checkpoint import CheckpointError, read_weights
from simim_plugin.detection import SiameseIMViTDet
from simim_plugin.detection.extended_block import extended_block, image_places
from simim_plugin.models import SiameseIMViT

from ..test_checkpoint.families import TIMM, saved
from ..test_checkpoint.helpers import (
    DIMS,
    HEADS,
    PATCH,
    SIZE,
    images,
    scramble,
)

LARGER = 48
DETECTOR = 'siamese_im_vit-micro-p16_vitdet-1xb2-600it_coco-tiny-256x256.py'


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


def plain(file, size, **changes):
    """Build the classification backbone for patch features."""
    model = SiameseIMViT(
        img_size=size,
        **{**read_weights(file).options(HEADS), **changes},
        out_type='featmap',
        pretrained=str(file),
    )
    model.init_weights()
    model.eval()
    return model


@pytest.mark.parametrize('kind', TIMM)
@torch.no_grad()
def test_global_blocks_compute_the_encoder(tmp_path, kind):
    _, file = saved(kind, tmp_path)
    model = built(file)
    for size in (SIZE, LARGER):
        torch.testing.assert_close(
            model(images(size))[0],
            plain(file, size)(images(size))[0],
            atol=1e-5,
            rtol=1e-5,
        )


@torch.no_grad()
def test_global_blocks_of_images_that_are_not_square(tmp_path):
    _, file = saved('beit', tmp_path)
    pixels = images(LARGER)[..., :SIZE]
    torch.testing.assert_close(
        built(file)(pixels)[0],
        plain(file, (LARGER, SIZE))(pixels)[0],
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize('windows', [6, 7, 14])
@pytest.mark.parametrize('kind', ['dinov2-registers', 'dinov3', 'eva02'])
@torch.no_grad()
def test_a_window_that_covers_the_image_is_global(tmp_path, kind, windows):
    """Nothing attends to what fills a larger window."""
    _, file = saved(kind, tmp_path)
    wide = SiameseIMViTDet(**options(file, windows))
    wide.init_weights()
    wide.eval()
    torch.testing.assert_close(
        wide(images(LARGER))[0],
        plain(file, LARGER)(images(LARGER))[0],
        atol=1e-5,
        rtol=1e-5,
    )


def middle(table, grid, part):
    """Return the rows of a bias table that a smaller grid has."""
    distances = table[:-3].unflatten(0, [2 * n - 1 for n in grid])
    for axis, (whole, kept) in enumerate(zip(grid, part, strict=True)):
        distances = distances.narrow(axis, whole - kept, 2 * kept - 1)
    return torch.cat([distances.flatten(0, 1), table[-3:]])


@pytest.mark.parametrize('kind', ['beit', 'beit-shared'])
@pytest.mark.parametrize('windows', [3, 4, 5])
@torch.no_grad()
def test_a_window_has_the_bias_of_its_size(tmp_path, kind, windows):
    """Without a cls token it is an image of its own, up to the border."""
    _, file = saved(kind, tmp_path)
    model = SiameseIMViTDet(
        **{**options(file, windows), 'with_cls_token': False}
    )
    model.init_weights()
    model.eval()
    pixels = images(LARGER)
    (found,) = model(pixels)
    whole = plain(file, windows * PATCH, with_cls_token=False)
    for top in range(0, 6, windows):
        for left in range(0, 6, windows):
            grid = min(windows, 6 - top), min(windows, 6 - left)
            alone = SiameseIMViT(
                img_size=tuple(n * PATCH for n in grid),
                **{
                    **read_weights(file).options(HEADS),
                    'with_cls_token': False,
                },
                out_type='featmap',
            )
            state = {
                name: middle(value, (windows, windows), grid)
                if name.endswith('bias_table')
                else value
                for name, value in whole.state_dict().items()
            }
            alone.load_state_dict(state)
            alone.eval()
            rows = slice(top, top + grid[0])
            columns = slice(left, left + grid[1])
            crop = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
            crop = crop[:, :, rows, columns].transpose(3, 4)
            crop = crop.flatten(2, 3).flatten(3, 4)
            torch.testing.assert_close(
                found[:, :, rows, columns],
                alone(crop)[0],
                atol=1e-5,
                rtol=1e-5,
            )


@torch.no_grad()
def test_the_bias_of_a_cls_token(tmp_path):
    """Against logits of all pairs, in windows of four of six patches."""
    _, file = saved('beit', tmp_path)
    model = SiameseIMViTDet(**options(file, windows=4))
    model.init_weights()
    model.eval()
    layer = model.layers[0]
    attn, table = layer.attn, layer.attn.bias_table
    tokens = torch.randn(1, 37, DIMS)
    query, key, value = (
        part.unflatten(2, (HEADS, -1)).transpose(1, 2)
        for part in attn.qkv(layer.ln1(tokens)).chunk(3, dim=2)
    )
    logits = query @ key.mT / (DIMS // HEADS) ** 0.5
    for q in range(37):
        for k in range(37):
            (row, column), (row_k, column_k) = (
                divmod(max(place - 1, 0), 6) for place in (q, k)
            )
            if (
                q
                and k
                and (row // 4, column // 4)
                != (
                    row_k // 4,
                    column_k // 4,
                )
            ):
                logits[:, :, q, k] = -torch.inf
                continue
            entry = 7 * (row - row_k + 3) + column - column_k + 3
            if not (q and k):
                entry = -1 if q == k else -3 if q == 0 else -2
            logits[:, :, q, k] += table[entry]
    attended = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
    wanted = tokens + attn.gamma1(attn.proj(attended))
    wanted = layer.ffn(layer.ln2(wanted), identity=wanted)
    found = extended_block(
        layer, tokens, (6, 6), image_places(model, (6, 6), tokens.device)
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('windows', [None, 4])
@torch.no_grad()
def test_bfloat16(tmp_path, windows):
    _, file = saved('beit', tmp_path)
    model = SiameseIMViTDet(**options(file, windows))
    model.init_weights()
    model.eval()
    wanted = model(images(LARGER))[0]
    with torch.autocast('cpu', torch.bfloat16):
        found = model(images(LARGER))[0]
    assert (found - wanted).abs().max() <= 0.03 * wanted.abs().max()
    found = model.bfloat16()(images(LARGER).bfloat16())[0]
    assert found.dtype == torch.bfloat16
    assert (found - wanted).abs().max() <= 0.05 * wanted.abs().max()


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


@pytest.mark.parametrize('kind', ['dinov3-plus', 'beit'])
@pytest.mark.parametrize('with_cp', [False, True])
def test_gradients_reach_every_parameter(tmp_path, kind, with_cp):
    _, file = saved(kind, tmp_path)
    given = options(file, windows=3)
    given['arch']['global_attn_indexes'] = [1]
    model = SiameseIMViTDet(**given, with_cp=with_cp)
    model.init_weights()
    model.train()
    model(images(40))[0].square().mean().backward()
    idle = {
        n
        for n, p in model.named_parameters()
        if p.grad is None or not p.grad.any()
    }
    assert not idle


def test_a_backbone_without_the_bias_refuses_the_file(tmp_path):
    _, file = saved('beit', tmp_path)
    given = options(file)
    del given['relative_bias']
    with pytest.raises(CheckpointError, match='relative_bias=True'):
        SiameseIMViTDet(**given).init_weights()


class SGD(OptimWrapper):
    """A step that keeps the gradients finite."""

    def __init__(self, model):
        super().__init__(torch.optim.SGD(model.parameters(), lr=1e-4))
        self.model = model

    def update_params(self, loss):
        loss.backward()
        for name, weight in self.model.backbone.named_parameters():
            if weight.requires_grad:
                assert weight.grad.isfinite().all(), name
        self.optimizer.step()


@pytest.mark.parametrize('kind', TIMM)
def test_a_detector_learns_from_the_encoder(tmp_path, kind):
    """Losses of Mask R-CNN are finite, and their gradients."""
    _, file = saved(kind, tmp_path)
    given = options(file, windows=3)
    given['arch']['global_attn_indexes'] = [1]
    config = Config.fromfile(config_path(DETECTOR))
    config.model.backbone = dict(given, type='SiameseIMViTDet')
    config.model.neck.in_channels = DIMS
    model = MODELS.build(config.model)
    model.init_weights()
    batch = demo_mm_inputs(
        2, [[3, LARGER, 40]] * 2, num_classes=80, with_mask=True
    )
    batch['inputs'] = [image.float() for image in batch['inputs']]
    losses = model.train_step(batch, SGD(model))
    assert all(torch.tensor(loss).isfinite() for loss in losses.values())
