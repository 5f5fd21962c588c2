"""Suppression and overlaps against a computation box by box."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmcv.ops import batched_nms, bbox_overlaps, nms, nms_match, soft_nms

METHODS = ('naive', 'linear', 'gaussian')


def drawn(seed: int, count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes on a coarse grid, many of which overlap, and distinct scores."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([start, start + rng.integers(1, 15, (count, 2))], 1)
    scores = rng.permutation(np.linspace(0.05, 0.95, count))
    return torch.tensor(boxes).float(), torch.tensor(scores).float()


def overlap(a, b, offset: int = 0, by_first: bool = False) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0]) + offset
    tall = min(a[3], b[3]) - max(a[1], b[1]) + offset
    common = max(0, wide) * max(0, tall)
    first, second = (
        (x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)
    )
    return common / (first if by_first else first + second - common)


def kept(boxes, scores, threshold, offset=0) -> list[int]:
    """Indices of the boxes that stay, best first."""
    boxes, left = boxes.tolist(), scores.argsort(descending=True).tolist()
    found = []
    while left:
        best, *left = left
        found.append(best)
        left = [
            i
            for i in left
            if overlap(boxes[best], boxes[i], offset) <= threshold
        ]
    return found


@given(
    seed=st.integers(0, 10**6),
    threshold=st.floats(0.05, 0.95),
    offset=st.sampled_from([0, 1]),
)
def test_nms(seed: int, threshold: float, offset: int) -> None:
    boxes, scores = drawn(seed)
    dets, index = nms(boxes, scores, threshold, offset=offset)
    assert index.tolist() == kept(boxes, scores, threshold, offset)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[index])


def test_offset_changes_the_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 5, 9, 14]])
    scores = torch.tensor([0.9, 0.8])
    # 4/14 without the last pixels, 5/15 with them.
    assert len(nms(boxes, scores, 0.3, offset=0)[1]) == 2
    assert len(nms(boxes, scores, 0.3, offset=1)[1]) == 1


def test_an_overlap_of_the_threshold_stays() -> None:
    """mmcv rounds 0.3 to float32."""
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert len(nms(boxes, scores, 0.3)[1]) == 2


def test_score_threshold_and_max_num() -> None:
    boxes, scores = drawn(1)
    index = nms(boxes, scores, 0.5, score_threshold=0.4, max_num=5)[1]
    above = (scores > 0.4).nonzero()[:, 0]
    best = kept(boxes[above], scores[above], 0.5)[:5]
    assert index.tolist() == above[best].tolist()


@pytest.mark.parametrize('split', [10000, 1])
def test_batched_nms(split: int) -> None:
    """Boxes of different classes do not suppress each other."""
    boxes, scores = drawn(2)
    classes = torch.arange(len(boxes)) % 3
    expected = [
        int(members[i])
        for c in range(3)
        for members in [(classes == c).nonzero()[:, 0]]
        for i in kept(boxes[members], scores[members], 0.4)
    ]
    expected.sort(key=lambda i: -scores[i])
    options = dict(type='nms', iou_threshold=0.4, split_thr=split)
    dets, index = batched_nms(boxes, scores, classes, options)
    assert index.tolist() == expected
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[index])


def test_class_agnostic_batched_nms() -> None:
    boxes, scores = drawn(2)
    classes = torch.arange(len(boxes)) % 3
    options = dict(type='nms', iou_threshold=0.4)
    index = batched_nms(boxes, scores, classes, options, class_agnostic=True)
    assert index[1].tolist() == kept(boxes, scores, 0.4)


def softened(boxes, scores, threshold, sigma, least, method, offset):
    """Indices and new scores of soft-NMS, box by box."""
    boxes, scores = boxes.tolist(), scores.tolist()
    left, found = list(range(len(boxes))), []
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        found.append((best, scores[best]))
        for i in list(left):
            iou = overlap(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                scores[i] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                scores[i] *= 0 if method == 'naive' else 1 - iou
            if scores[i] < least:
                left.remove(i)
    return found


@given(
    seed=st.integers(0, 10**6),
    threshold=st.floats(0.1, 0.9),
    method=st.sampled_from(METHODS),
    offset=st.sampled_from([0, 1]),
)
def test_soft_nms(seed, threshold, method, offset) -> None:
    boxes, scores = drawn(seed, 12)
    dets, index = soft_nms(boxes, scores, threshold, 0.5, 0.1, method, offset)
    expected = softened(boxes, scores, threshold, 0.5, 0.1, method, offset)
    assert index.tolist() == [i for i, _ in expected]
    assert torch.equal(dets[:, :4], boxes[index])
    new = torch.tensor([score for _, score in expected])
    torch.testing.assert_close(dets[:, 4], new)


@given(seed=st.integers(0, 10**6), threshold=st.floats(0.1, 0.9))
def test_nms_match(seed: int, threshold: float) -> None:
    boxes, scores = drawn(seed, 15)
    groups = nms_match(torch.cat([boxes, scores[:, None]], 1), threshold)
    heads = [group[0].item() for group in groups]
    assert heads == sorted(heads, key=lambda i: -scores[i])
    assert sorted(i for group in groups for i in group.tolist()) == [
        *range(15)
    ]
    for number, group in enumerate(groups):
        first, *others = group.tolist()
        assert others == sorted(others, key=lambda i: -scores[i])
        for i in others:
            assert overlap(boxes[first], boxes[i]) >= threshold - 1e-6
            # An earlier group would hold it.
            for earlier in heads[:number]:
                assert overlap(boxes[earlier], boxes[i]) < threshold + 1e-6


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_bbox_overlaps(mode: str, offset: int) -> None:
    first, second = drawn(3, 7)[0], drawn(4, 5)[0]
    expected = torch.tensor(
        [[overlap(a, b, offset, mode == 'iof') for b in second] for a in first]
    )
    found = bbox_overlaps(first, second, mode, False, offset)
    torch.testing.assert_close(found, expected)
    found = bbox_overlaps(first[:5], second, mode, True, offset)
    torch.testing.assert_close(found, expected[:5].diagonal())


def test_no_boxes() -> None:
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for function in (nms, soft_nms):
        dets, index = function(boxes, scores, 0.5)
        assert dets.shape == (0, 5) and index.shape == (0,)
        assert index.dtype == torch.long
    assert nms_match(torch.zeros(0, 5), 0.5) == []
    assert bbox_overlaps(boxes, torch.zeros(3, 4)).shape == (0, 3)
    options = dict(type='nms', iou_threshold=0.5)
    dets, index = batched_nms(
        torch.zeros(1, 4), torch.ones(1), torch.zeros(1).long(), options
    )
    assert len(dets) == len(index) == 1


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16, torch.double])
def test_other_dtypes(dtype: torch.dtype) -> None:
    boxes, scores = drawn(5)
    # Each score is exact in bfloat16.
    scores = (1 + scores.argsort().argsort()) / 64
    dets, index = nms(boxes.to(dtype), scores.to(dtype), 0.5)
    assert index.tolist() == kept(boxes, scores, 0.5)
    assert dets.dtype == dtype
    dets, index = soft_nms(boxes.to(dtype), scores.to(dtype), 0.5)
    assert index.tolist()[0] == scores.argmax()
    assert dets.dtype == dtype


def test_numpy_arrays() -> None:
    boxes, scores = drawn(6)
    dets, index = nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(dets, np.ndarray)
    assert index.tolist() == kept(boxes, scores, 0.5)
