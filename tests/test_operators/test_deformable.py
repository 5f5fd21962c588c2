"""Deformable convolutions and attention against a sum tap by tap."""

from __future__ import annotations

from math import floor

import pytest
import torch
from mmcv.ops import deform_conv2d, modulated_deform_conv2d
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
)
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

GEOMETRIES = {
    'plain': dict(stride=1, padding=0, dilation=1, groups=1, deform_groups=1),
    'strided': dict(
        stride=2, padding=1, dilation=1, groups=1, deform_groups=2
    ),
    'grouped': dict(
        stride=1, padding=2, dilation=2, groups=2, deform_groups=1
    ),
    'oblong': dict(
        **dict(stride=(1, 2), padding=(2, 1), dilation=(2, 1)),
        **dict(groups=2, deform_groups=4),
    ),
}


def operands(geometry: dict, batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    input = draw(batch, 4, 5, 6)
    weight = draw(6, 4 // geometry['groups'], 3, 3)
    plain = {k: v for k, v in geometry.items() if k != 'deform_groups'}
    size = F.conv2d(input, weight, **plain).shape[-2:]
    taps = geometry['deform_groups'] * 9
    return dict(
        input=input,
        offset=2 * draw(batch, 2 * taps, *size),
        mask=draw(batch, taps, *size).sigmoid(),
        weight=weight,
        bias=draw(6),
    )


def at(plane: Tensor, y: float, x: float) -> Tensor:
    """Return a bilinear sample, with zeros around the map."""
    top, left = floor(y), floor(x)
    value = plane.new_zeros(())
    for row, tall in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, broad in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                value = value + tall * broad * plane[row, column]
    return value


def by_hand(o: dict[str, Tensor], geometry: dict, mask, bias) -> Tensor:
    """Compute every tap of every output pixel."""
    down, across = torch.nn.modules.utils._pair(geometry['stride'])
    top, left = torch.nn.modules.utils._pair(geometry['padding'])
    tall, broad = torch.nn.modules.utils._pair(geometry['dilation'])
    batch, channels = o['input'].shape[:2]
    height, width = o['offset'].shape[-2:]
    per_group = channels // geometry['deform_groups']
    taps = o['input'].new_zeros(batch, channels, 9, height, width)
    for b in range(batch):
        for c in range(channels):
            for k in range(9):
                tap = c // per_group * 9 + k
                for y in range(height):
                    for x in range(width):
                        dy, dx = o['offset'][b, 2 * tap : 2 * tap + 2, y, x]
                        value = at(
                            o['input'][b, c],
                            y * down - top + k // 3 * tall + dy.item(),
                            x * across - left + k % 3 * broad + dx.item(),
                        )
                        if mask is not None:
                            value = value * mask[b, tap, y, x]
                        taps[b, c, k, y, x] = value
    groups = geometry['groups']
    taps = taps.unflatten(1, (groups, -1))
    weight = o['weight'].flatten(2).unflatten(0, (groups, -1))
    out = torch.einsum('bgckyx,gock->bgoyx', taps, weight).flatten(1, 2)
    return out if bias is None else out + bias[:, None, None]


@pytest.mark.parametrize('geometry', GEOMETRIES.values(), ids=GEOMETRIES)
def test_deform_conv(geometry: dict) -> None:
    o = operands(geometry)
    found = deform_conv2d(
        o['input'], o['offset'], o['weight'], *geometry.values()
    )
    torch.testing.assert_close(found, by_hand(o, geometry, None, None))


@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('geometry', GEOMETRIES.values(), ids=GEOMETRIES)
def test_modulated_deform_conv(geometry: dict, with_bias: bool) -> None:
    o = operands(geometry)
    bias = o['bias'] if with_bias else None
    found = modulated_deform_conv2d(
        *(o['input'], o['offset'], o['mask'], o['weight'], bias),
        *geometry.values(),
    )
    torch.testing.assert_close(found, by_hand(o, geometry, o['mask'], bias))


@pytest.mark.parametrize('geometry', GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradients(geometry: dict) -> None:
    o = {k: v.requires_grad_() for k, v in operands(geometry, 1).items()}
    options = tuple(geometry.values())
    assert gradcheck(
        lambda *x: deform_conv2d(*x, *options),
        (o['input'], o['offset'], o['weight']),
        fast_mode=True,
    )
    assert gradcheck(
        lambda *x: modulated_deform_conv2d(*x, *options),
        (o['input'], o['offset'], o['mask'], o['weight'], o['bias']),
        fast_mode=True,
    )


def test_gradient_of_the_weight_alone() -> None:
    """mmcv then omits the backward call for input and offset."""
    geometry = GEOMETRIES['strided']
    o = operands(geometry)
    weight = o['weight'].requires_grad_()
    options = tuple(geometry.values())
    deform_conv2d(o['input'], o['offset'], weight, *options).sum().backward()
    alone, weight.grad = weight.grad, None
    input = o['input'].requires_grad_()
    deform_conv2d(input, o['offset'], weight, *options).sum().backward()
    torch.testing.assert_close(alone, weight.grad)
    (expected,) = torch.autograd.grad(
        by_hand(o, geometry, None, None).sum(), weight
    )
    torch.testing.assert_close(alone, expected)


def test_offsets_of_zero_are_a_convolution() -> None:
    geometry = GEOMETRIES['strided']
    o = operands(geometry)
    plain = {k: v for k, v in geometry.items() if k != 'deform_groups'}
    found = deform_conv2d(
        o['input'], 0 * o['offset'], o['weight'], *geometry.values()
    )
    torch.testing.assert_close(
        found, F.conv2d(o['input'], o['weight'], **plain)
    )


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_low_precision_is_rounded_once(dtype) -> None:
    geometry = GEOMETRIES['plain']
    o = {k: v.to(dtype) for k, v in operands(geometry).items()}
    names = ('input', 'offset', 'mask', 'weight', 'bias')
    low = [o[name].requires_grad_() for name in names]
    high = [x.detach().float().requires_grad_() for x in low]
    found, exact = (
        modulated_deform_conv2d(*x, *geometry.values()) for x in (low, high)
    )
    assert torch.equal(found, exact.to(dtype))
    found.sum().backward()
    exact.sum().backward()
    for x, y in zip(low, high, strict=True):
        assert torch.equal(x.grad, y.grad.to(dtype))


def attended() -> tuple[Tensor, ...]:
    """Values of two levels, 3 queries, 2 heads of 4 channels, 2 points."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    shapes = torch.tensor([[4, 3], [2, 2]])
    weights = draw(2, 3, 2, 4).softmax(-1).unflatten(-1, (2, 2))
    return (
        draw(2, 16, 2, 4),
        shapes,
        torch.tensor([0, 12]),
        draw(2, 3, 2, 2, 2, 2),
        weights,
    )


def test_deformable_attention() -> None:
    value, shapes, starts, places, weights = attended()
    found = MultiScaleDeformableAttnFunction.apply(
        value, shapes, starts, places, weights, 64
    )
    expected = torch.zeros(2, 3, 2, 4, dtype=torch.float64)
    for b in range(2):
        for q in range(3):
            for h in range(2):
                for level, (tall, broad) in enumerate(shapes.tolist()):
                    start = int(starts[level])
                    keys = value[b, start : start + tall * broad, h]
                    maps = keys.T.unflatten(1, (tall, broad))
                    for p in range(2):
                        x, y = places[b, q, h, level, p].tolist()
                        for c in range(4):
                            expected[b, q, h, c] += weights[
                                b, q, h, level, p
                            ] * at(maps[c], y * tall - 0.5, x * broad - 0.5)
    torch.testing.assert_close(found, expected.flatten(2))


def test_gradients_of_deformable_attention() -> None:
    value, shapes, starts, places, weights = attended()
    for x in (value, places, weights):
        x.requires_grad_()
    assert gradcheck(
        lambda v, p, w: MultiScaleDeformableAttnFunction.apply(
            v, shapes, starts, p, w, 64
        ),
        (value, places, weights),
    )


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_attention_in_low_precision(dtype) -> None:
    value, shapes, starts, places, weights = (
        x.to(dtype) if x.is_floating_point() else x for x in attended()
    )
    value.requires_grad_()
    found = MultiScaleDeformableAttnFunction.apply(
        value, shapes, starts, places, weights, 64
    )
    exact = MultiScaleDeformableAttnFunction.apply(
        value.float(), shapes, starts, places.float(), weights.float(), 64
    )
    assert torch.equal(found, exact.to(dtype))
    found.sum().backward()
    assert value.grad.dtype == dtype and value.grad.isfinite().all()
