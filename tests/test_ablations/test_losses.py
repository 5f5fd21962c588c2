"""Loss norms, heads and the pixel target equal direct computations."""

import pytest
import torch
from mmpretrain.models import MAEPretrainHead
from mmpretrain.registry import MODELS

from simim_plugin.ablations import (
    GlobalHead,
    L2Head,
    MoCoLikeNorm,
    NormedUniGradHead,
    PixelSiameseIM,
)
from simim_plugin.errors import SimimError
from simim_plugin.models import UniGradHead

from ..test_models.helpers import small_batch, small_config

MAE = dict(type='MAELikeNorm')
MOCO = dict(type='MoCoLikeNorm', eps=0.0)
BOTH = dict(type='OnlineNorm')
NONE = dict(type='NoLossNorm')


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (
        torch.randn(3, 5, 8, generator=generator, dtype=torch.float64) + 0.3
        for _ in range(2)
    )
    return prediction.requires_grad_(), target.requires_grad_()


def standardised(rows):
    """Normalise each row to mean 0 and variance 1, element by element."""
    result = torch.zeros_like(rows)
    for i, row in enumerate(rows):
        mean = sum(row) / len(row)
        var = sum((x - mean) ** 2 for x in row) / len(row)
        result[i] = (row - mean) / (var + 1e-5).sqrt()
    return result


def unit(rows):
    """Apply BatchNorm over the rows, then L2: vectors of length 1."""
    rows = (rows - rows.mean(0)) / rows.std(0, unbiased=False)
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def gradient_of(value, prediction):
    (gradient,) = torch.autograd.grad(value, prediction)
    return gradient


def agree(head, pair, expected):
    """Assert that loss and gradient equal a direct computation."""
    prediction, target = pair
    loss = head.loss(prediction, target)['loss']
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    ours = gradient_of(loss, prediction)
    theirs = gradient_of(expected, prediction)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def tokens(pair):
    return pair[0].flatten(0, 1), pair[1].detach().flatten(0, 1)


@pytest.mark.parametrize('norm', [MAE, BOTH, NONE])
def test_l2(pair, norm):
    p, t = tokens(pair)
    t = t if norm is NONE else standardised(t)
    p = standardised(p) if norm is BOTH else p
    expected = sum(((a - b) ** 2).sum() for a, b in zip(p, t, strict=True))
    agree(L2Head(norm), pair, expected / p.numel())


def test_l2_is_unigrad_without_negatives(pair):
    agree(L2Head(), pair, UniGradHead(0.0).loss(*pair)['loss'])


@pytest.mark.parametrize('norm', [BOTH, NONE])
def test_unigrad_with_other_norms(pair, norm):
    p, t = tokens(pair)
    if norm is BOTH:
        p, t = standardised(p), standardised(t)
    similarity = p @ t.T  # M x M
    expected = (p - t).square().sum(1) + 0.3 * similarity.square().mean(1)
    agree(NormedUniGradHead(norm, 0.3), pair, expected.mean() / p.shape[1])


def test_moco_like_norm_is_unigrad_on_unit_vectors(pair):
    """The weight is D times as large, and the 1 / D is absent."""
    p, t = map(unit, tokens(pair))
    similarity = p @ t.T  # M x M
    weight = 0.3 * p.shape[1]
    expected = (p - t).square().sum(1) + weight * similarity.square().mean(1)
    agree(NormedUniGradHead(MOCO, 0.3), pair, expected.mean())


def test_moco_like_l2(pair):
    p, t = map(unit, tokens(pair))
    agree(L2Head(MOCO), pair, (p - t).square().sum(1).mean())


def test_moco_like_norm_makes_vectors_as_long_as_layer_norm(pair):
    p, t = MoCoLikeNorm()(*tokens(pair))
    for vectors in (p, t):
        torch.testing.assert_close(
            vectors.norm(dim=1), torch.full((15,), 8.0).double().sqrt()
        )
    assert p.requires_grad
    assert not t.requires_grad


@pytest.mark.parametrize('norm', [MAE, MOCO])
@pytest.mark.parametrize('kind', ['NormedUniGradHead', 'L2Head'])
def test_global_is_dense_on_one_token(pair, kind, norm):
    dense = dict(type=kind, norm=norm)
    head = GlobalHead(dense)
    dense = MODELS.build(dense)
    one = tuple(x[:, :1] for x in pair)
    assert head.loss(*one)['loss'] == dense.loss(*one)['loss']
    means = [sum(x.unbind(1))[:, None] / 5 for x in pair]
    agree(head, pair, dense.loss(*means)['loss'])
    assert head.loss(*pair)['loss'] != dense.loss(*pair)['loss']


@pytest.mark.parametrize('norm', [MAE, MOCO, BOTH, NONE])
def test_losses_stay_in_float32_under_autocast(norm):
    generator = torch.Generator().manual_seed(0)
    p, t = (torch.randn(2, 6, 8, generator=generator) for _ in range(2))
    dense = L2Head(norm)
    of_means = GlobalHead(dict(type='L2Head', norm=norm))
    for head in (NormedUniGradHead(norm=norm), dense, of_means):
        expected = head.loss(p, t)['loss']
        rounded = p.bfloat16(), t.bfloat16()
        exact = head.loss(*(x.float() for x in rounded))['loss']
        with torch.autocast('cpu', torch.bfloat16):
            assert head.loss(p, t)['loss'] == expected
            half = head.loss(*rounded)['loss']
        assert half.dtype == torch.float32
        assert half == exact


def pixel_model(norm, grid=(3, 4), values=48, **backbone):
    config = small_config(grid=grid)
    config.pop('type')
    config['backbone'].update(backbone)
    config['neck'].update(type='PixelDecoder', out_dims=values)
    config['head'] = dict(type='L2Head', norm=norm)
    model = PixelSiameseIM(**config)
    model.init_weights()
    return model


@pytest.mark.parametrize('norm', [MAE, NONE])
def test_pixel_target(norm):
    """Loops over patches and pixels give the same loss."""
    model = pixel_model(norm)
    inputs, samples = small_batch(size=2, grid=(3, 4))
    visible, geometry = model._collate(samples)
    prediction = model.neck(
        model.projector(model.backbone(inputs[0], visible)), visible, geometry
    )
    errors = []
    for image in range(2):
        for row in range(3):
            for col in range(4):
                patch = torch.stack(
                    [
                        inputs[1][image, colour, 4 * row + y, 4 * col + x]
                        for y in range(4)
                        for x in range(4)
                        for colour in range(3)
                    ]
                )
                if norm is MAE:
                    patch = standardised(patch[None])[0]
                guess = prediction[image, 4 * row + col]
                errors.append((guess - patch).square().mean())
    expected = sum(errors) / len(errors)
    loss = model.loss(inputs, samples)['loss']
    torch.testing.assert_close(loss, expected)


def test_pixel_order_is_that_of_mae():
    view = torch.randn(2, 3, 12, 12)
    model = pixel_model(NONE, grid=(3, 3))
    head = MAEPretrainHead(
        dict(type='PixelReconstructionLoss', criterion='L2'), patch_size=4
    )
    assert torch.equal(model.encode_target(view), head.patchify(view))


def test_pixels_of_other_channels_and_patches():
    """Five channels, patches of 2 x 4 pixels."""
    model = pixel_model(
        NONE,
        values=5 * 2 * 4,
        in_channels=5,
        patch_size=(2, 4),
        img_size=(6, 16),
    )
    view = torch.randn(1, 5, 6, 16)
    target = model.encode_target(view)
    assert target.shape == (1, 12, 40)
    for index, patch in enumerate(target[0]):
        row, col = index // 4, index % 4
        square = view[0, :, 2 * row : 2 * row + 2, 4 * col : 4 * col + 4]
        assert torch.equal(patch.view(2, 4, 5).permute(2, 0, 1), square)


def test_pixel_model_has_no_target_branch():
    model = pixel_model(MAE)
    model.update_target(0.5)  # as the hook does
    assert not [n for n in model.state_dict() if n.startswith('target')]
    config = small_config()
    config.pop('type')
    with pytest.raises(SimimError, match=r'48 pixel values.*out_dims=48'):
        PixelSiameseIM(**config)
