"""RoIAlign and RoIPool against a computation sample by sample."""

from __future__ import annotations

from math import ceil, floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import RoIAlign, RoIPool, roi_align, roi_pool
from torch import Tensor
from torch.autograd import gradcheck

SIZE = 3, 2
LAYERS = {
    'average': RoIAlign(SIZE),
    'max': RoIAlign(SIZE, pool_mode='max'),
    'pool': RoIPool(SIZE),
}


def inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two maps of 7 x 9, with tiny regions and some beyond the border."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(
        2, 3, 7, 9, generator=generator, dtype=torch.float64
    )
    start = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 16 - 4
    extent = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 12
    extent[-1] = 0.1
    image = torch.tensor([[0.0], [1], [1], [0], [1], [0]])
    return features, torch.cat([image, start, start + extent], 1)


def sample(plane: Tensor, y: float, x: float) -> Tensor:
    """Return a bilinear sample, 0 beyond one pixel outside the map."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.new_zeros(())
    y, x = (min(max(v, 0), n - 1) for v, n in ((y, height), (x, width)))
    top, left = floor(y), floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    up, side = y - top, x - left
    return (1 - up) * (
        (1 - side) * plane[top, left] + side * plane[top, right]
    ) + up * ((1 - side) * plane[bottom, left] + side * plane[bottom, right])


def aligned_by_hand(
    features, rois, size, scale, ratio, mode, aligned
) -> Tensor:
    out = features.new_zeros(len(rois), features.shape[1], *size)
    for k, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * scale - 0.5 * aligned for v in box)
        wide, tall = x2 - x1, y2 - y1
        if not aligned:
            wide, tall = max(wide, 1), max(tall, 1)
        down, across = tall / size[0], wide / size[1]
        rows = ratio or ceil(down)
        columns = ratio or ceil(across)
        for c, plane in enumerate(features[int(image)]):
            for p in range(size[0]):
                for q in range(size[1]):
                    samples = torch.stack(
                        [
                            sample(
                                plane,
                                y1 + (p + (i + 0.5) / rows) * down,
                                x1 + (q + (j + 0.5) / columns) * across,
                            )
                            for i in range(rows)
                            for j in range(columns)
                        ]
                    )
                    pool = samples.mean if mode == 'avg' else samples.max
                    out[k, c, p, q] = pool()
    return out


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1.0, 0.5]),
    ratio=st.sampled_from([0, 1, 2]),
    mode=st.sampled_from(['avg', 'max']),
    aligned=st.booleans(),
)
def test_roi_align(seed, scale, ratio, mode, aligned) -> None:
    features, rois = inputs(seed)
    options = (SIZE, scale, ratio, mode, aligned)
    torch.testing.assert_close(
        roi_align(features, rois, *options),
        aligned_by_hand(features, rois, *options),
    )


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_gradient_of_roi_align(mode: str, ratio: int, aligned: bool) -> None:
    features, rois = inputs()
    features.requires_grad_()
    options = (SIZE, 0.5, ratio, mode, aligned)
    assert gradcheck(lambda x: roi_align(x, rois, *options), features)
    roi_align(features, rois, *options).square().sum().backward()
    (by_hand,) = torch.autograd.grad(
        aligned_by_hand(features, rois, *options).square().sum(), features
    )
    torch.testing.assert_close(features.grad, by_hand)


def pooled_by_hand(features, rois, size, scale) -> Tensor:
    out = features.new_zeros(len(rois), features.shape[1], *size)
    height, width = features.shape[-2:]
    for k, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * scale for v in (x1, y1, x2 + 1, y2 + 1))
        down, across = (y2 - y1) / size[0], (x2 - x1) / size[1]
        for p in range(size[0]):
            for q in range(size[1]):
                top = max(floor(p * down + y1), 0)
                bottom = min(ceil((p + 1) * down + y1), height)
                left = max(floor(q * across + x1), 0)
                right = min(ceil((q + 1) * across + x1), width)
                if top < bottom and left < right:
                    part = features[int(image), :, top:bottom, left:right]
                    out[k, :, p, q] = part.flatten(1).max(1).values
    return out


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1.0, 0.25]))
def test_roi_pool(seed: int, scale: float) -> None:
    features, rois = inputs(seed)
    torch.testing.assert_close(
        roi_pool(features, rois, SIZE, scale),
        pooled_by_hand(features, rois, SIZE, scale),
    )


def test_gradient_of_roi_pool() -> None:
    features, rois = inputs()
    features.requires_grad_()
    assert gradcheck(lambda x: roi_pool(x, rois, SIZE), features)
    roi_pool(features, rois, SIZE).square().sum().backward()
    (by_hand,) = torch.autograd.grad(
        pooled_by_hand(features, rois, SIZE, 1).square().sum(), features
    )
    torch.testing.assert_close(features.grad, by_hand)


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_low_precision_is_rounded_once(layer, dtype) -> None:
    features, rois = (x.to(dtype) for x in inputs())
    exact = layer(features.float(), rois.float())
    assert torch.equal(layer(features, rois), exact.to(dtype))
    grads = []
    for x in (features, features.float()):
        x.requires_grad_()
        layer(x, rois.type_as(x)).sum().backward()
        grads.append(x.grad)
    assert torch.equal(grads[0], grads[1].to(dtype))


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
def test_no_regions(layer) -> None:
    features = inputs()[0].requires_grad_()
    found = layer(features, torch.zeros(0, 5, dtype=torch.float64))
    assert found.shape == (0, 3, *SIZE)
    found.sum().backward()
    assert not features.grad.any()


def test_a_region_without_extent() -> None:
    features = inputs()[0].requires_grad_()
    rois = torch.tensor([[0, 2.0, 2, 2, 2]]).double()
    for mode in ('avg', 'max'):
        found = roi_align(features, rois, SIZE, 1.0, 0, mode, True)
        found.sum().backward()
        assert not found.any() and not features.grad.any()


def test_a_large_map_in_bfloat16() -> None:
    """bfloat16 has no odd coordinates above 256."""
    features = torch.zeros(1, 1, 400, 400, dtype=torch.bfloat16)
    features[0, 0, 320, 320] = 1
    rois = torch.tensor([[0, 316.0, 316, 328, 328]], dtype=torch.bfloat16)
    features.requires_grad_()
    roi_align(features, rois, 1, 1.0, 12, 'max', False).sum().backward()
    row, column = divmod(int(features.grad.argmax()), 400)
    assert row in (319, 320) and column in (319, 320)
