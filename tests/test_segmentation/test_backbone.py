"""The ViT backbone of UPerNet: the features of MMSegmentation's MAE."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.models.backbones import MAE
from mmseg.registry import MODELS

from simim_plugin.checkpoint import CheckpointError
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIMViT
from simim_plugin.segmentation import SiameseIMSegViT

DIMS, DEPTH, HEADS = 48, 4, 3
STOCK = dict(embed_dims=DIMS, num_layers=DEPTH, num_heads=HEADS)
ARCH = dict(STOCK, feedforward_channels=4 * DIMS)
NAMES = (
    ('.gamma_1', '.attn.gamma1.weight'),
    ('.gamma_2', '.ffn.gamma2.weight'),
    ('.attn.relative_position_bias_table', '.attn.bias_table'),
    ('.norm1.', '.ln1.'),
    ('.norm2.', '.ln2.'),
)


def scramble(module, seed=0):
    """Randomise every parameter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(0.3 * noise + (parameter.ndim == 1))
    module.eval()  # returns None in MMSegmentation
    return module


def ours(size=64, **options):
    options = dict(arch=ARCH, img_size=size) | options
    return SiameseIMSegViT(**dict(out_indices=(0, 1, 2, 3)) | options)


def stock(size=64):
    norm = dict(type='LN', eps=1e-6)
    blocks = (0, 1, 2, 3)
    options = dict(img_size=size, out_indices=blocks, norm_cfg=norm)
    return MAE(**STOCK, init_values=1.0, **options)


def renamed(name):
    """The name of a parameter of MMSegmentation's MAE in ours."""
    for old, new in NAMES:
        name = name.replace(old, new)
    return name


def filled(reference):
    """Our backbone with the weights of MMSegmentation's."""
    vit = ours().eval()
    state = {
        renamed(name): value
        for name, value in reference.state_dict().items()
        if not name.endswith('relative_position_index')
    }
    vit.load_state_dict(state)
    return vit


def classifier(size=64):
    """The classification backbone, without a final norm."""
    vit = SiameseIMViT(arch=ARCH, img_size=size, patch_size=16)
    return scramble(vit, seed=1)


def images(size=64, count=2):
    generator = torch.Generator().manual_seed(5)
    return torch.randn((count, 3, size, size), generator=generator)


@pytest.fixture
def file(tmp_path):
    vit = classifier()
    path = tmp_path / 'pretrained.pth'
    state = {f'backbone.{k}': v for k, v in vit.state_dict().items()}
    torch.save(dict(state_dict=state), path)
    return path


def test_recipe_is_the_default():
    """LayerScale 1 and eps 1e-6, as in MMSegmentation's MAE recipe."""
    vit = ours()
    for layer in vit.layers:
        assert (layer.attn.gamma1.weight == 1).all()
        assert (layer.ffn.gamma2.weight == 1).all()
        assert not layer.attn.bias_table.any()
        assert layer.ln1.eps == layer.ln2.eps == 1e-6
    assert all(weight.requires_grad for weight in vit.parameters())
    assert vit.final_norm is False


def test_drop_path_grows_from_0_to_its_rate():
    vit = ours(drop_path_rate=0.1)
    rates = [layer.ffn.dropout_layer.drop_prob for layer in vit.layers]
    assert rates == pytest.approx(np.linspace(0, 0.1, DEPTH))


def test_outputs_and_gradients_equal_the_stock_backbone():
    expected = scramble(stock())
    got = filled(expected)
    outs, wanted = got(images()), expected(images())
    assert len(outs) == len(wanted) == 4
    for out, want in zip(outs, wanted, strict=True):
        assert out.shape == (2, DIMS, 4, 4)
        torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-5)
    for features in (outs, wanted):
        sum(x.sin().mean() for x in features).backward()
    grads = {name: x.grad for name, x in got.named_parameters()}
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(
            grads.pop(renamed(name)), parameter.grad, atol=1e-5, rtol=1e-4
        )
    assert not grads


def test_bf16_costs_no_more_than_in_the_stock_backbone():
    """The error depends on the CPU's kernels, for both in the same way."""
    reference = scramble(stock())
    vit = filled(reference)
    expected = [x.detach() for x in vit(images())]
    errors = []
    for backbone in (vit, reference):
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            outs = backbone(images())
        errors.append(
            torch.stack(
                [
                    (out - want).norm() / want.norm()
                    for out, want in zip(outs, expected, strict=True)
                ]
            )
        )
    assert (errors[1] > 1e-4).all()  # it was bf16
    assert (errors[0] < 1.5 * errors[1]).all(), errors


@settings(max_examples=10)
@given(st.integers(0, DEPTH - 1), st.integers(0, 2**16))
def test_bias_is_added_to_the_attention(layer, seed):
    """A constant over all offsets has no effect: softmax cancels it."""
    vit = scramble(ours(), seed)
    before = vit(images(count=1))[-1]
    vit.layers[layer].attn.bias_table.data += 2.5
    after = vit(images(count=1))[-1]
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)
    vit.layers[layer].attn.bias_table.data[::2] += 9
    assert (vit(images(count=1))[-1] - after).abs().max() > 1e-3


@pytest.mark.parametrize('form', [str, lambda file: dict(file=str(file))])
def test_pretrained_patches_equal_classification(file, form):
    """At the pretraining size, before a final norm."""
    vit = ours(pretrained=form(file))
    vit.init_weights()
    tokens = classifier()(images())[-1][:, 1:]  # (B, N, C)
    vit.eval()
    got = vit(images())[-1].flatten(2).mT
    torch.testing.assert_close(got, tokens, atol=1e-4, rtol=1e-4)


def test_positions_are_interpolated_bicubically(file):
    source = classifier().pos_embed.data
    vit = ours(size=128, pretrained=str(file))
    vit.init_weights()
    assert torch.equal(vit.pos_embed[:, :1], source[:, :1])
    grid = source[:, 1:].mT.reshape(1, DIMS, 4, 4)
    grid = F.interpolate(grid, (8, 8), mode='bicubic', align_corners=False)
    torch.testing.assert_close(vit.pos_embed[:, 1:], grid.flatten(2).mT)
    assert not vit.layers[0].attn.bias_table.any()
    assert (vit.layers[3].ffn.gamma2.weight == 1).all()


def test_base_at_512_has_32_x_32_positions(tmp_path):
    """From a ViT-B/16 of 224 px with one block."""
    arch = dict(embed_dims=768, num_layers=1, num_heads=12)
    arch['feedforward_channels'] = 3072
    vit = SiameseIMViT(arch=arch, img_size=224, patch_size=16)
    vit.init_weights()
    path = tmp_path / 'base.pth'
    torch.save(vit.state_dict(), path)
    wide = SiameseIMSegViT(arch=arch, img_size=512, pretrained=str(path))
    wide.init_weights()
    assert wide.pos_embed.shape == (1, 1 + 32 * 32, 768)
    grid = vit.pos_embed[:, 1:].mT.reshape(1, 768, 14, 14)
    grid = F.interpolate(grid, (32, 32), mode='bicubic', align_corners=False)
    torch.testing.assert_close(wide.pos_embed[0, 1:], grid[0].flatten(1).mT)
    assert torch.equal(wide.pos_embed[:, :1], vit.pos_embed[:, :1])


def test_finetuned_bias_and_scale_are_loaded(tmp_path):
    """Optional parameters are loaded if the file has them."""
    source = scramble(ours(), seed=3)
    torch.save(source.state_dict(), tmp_path / 'tuned.pth')
    vit = ours(pretrained=str(tmp_path / 'tuned.pth'))
    vit.init_weights()
    for name, value in vit.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name


@pytest.mark.parametrize('gone', ['layers.2.ln1.weight', 'cls_token'])
def test_other_parameters_are_required(tmp_path, gone):
    state = scramble(ours()).state_dict()
    del state[gone]
    torch.save(state, tmp_path / 'broken.pth')
    with pytest.raises(CheckpointError, match=f'1 missing .{gone}'):
        ours(pretrained=str(tmp_path / 'broken.pth')).init_weights()


def test_positions_start_as_sin_cos():
    """As in pretraining, but trained."""
    vit = ours()
    vit.init_weights()
    expected = classifier()
    expected.init_weights()
    torch.testing.assert_close(vit.pos_embed, expected.pos_embed)
    assert vit.pos_embed.requires_grad


def test_init_cfg_that_unpickles_is_refused():
    with pytest.raises(SimimError, match='use pretrained=FILE'):
        ours(init_cfg=dict(type='Pretrained', checkpoint='a.pth'))


def test_image_of_another_size_is_refused():
    with pytest.raises(SimimError, match=r'64 x 64 .* 32 x 32'):
        ours()(images(32))


@torch.no_grad()
def test_images_of_any_size_without_the_bias():
    vit = scramble(ours(relative_bias=False))
    assert vit(images(32))[-1].shape == (2, DIMS, 2, 2)


@torch.no_grad()
def test_the_bias_leaves_attention_fused():
    """PyTorch has no plain kernel to fall back to here."""
    attention = pytest.importorskip('torch.nn.attention')  # torch 2.3
    vit = scramble(ours())
    with attention.sdpa_kernel(attention.SDPBackend.FLASH_ATTENTION):
        vit(images())


def test_recomputed_activations():
    """``with_cp`` changes no gradient."""
    vit, other = scramble(ours()), scramble(ours(with_cp=True))
    for model in (vit, other):
        model.train()
        sum(x.sin().mean() for x in model(images())).backward()
    for one, two in zip(vit.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_registered_name():
    assert MODELS.get('SiameseIMSegViT') is SiameseIMSegViT
