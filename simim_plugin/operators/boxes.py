"""Overlaps of boxes and their suppression.

Shape key: N, M boxes, as (x1, y1, x2, y2) in pixels. ``offset`` is 1 where a
box includes its last pixel, so that its width is x2 - x1 + 1, otherwise 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from .precision import wide

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2
"""What soft-NMS does to a box that overlaps: drop, or lower its score."""


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int
) -> Tensor:
    """Non-maximum suppression.

    Args:
        boxes (Tensor): (N, 4).
        scores (Tensor): (N,).
        iou_threshold (float): a box goes if it overlaps a better one by more.
        offset (int): 0 or 1.

    Returns:
        Tensor: indices of the boxes that stay, the best first.
    """
    return torchvision_nms(
        _half_open(boxes, offset), wide(scores), _as_float32(iou_threshold)
    )


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft non-maximum suppression (Bodla et al. 2017).

    Args:
        boxes (Tensor): (N, 4).
        scores (Tensor): (N,).
        dets (Tensor): (N, 5); the first rows receive the boxes that stay and
            their new scores, the best first.
        iou_threshold (float): from here on 'naive' and 'linear' act.
        sigma (float): of 'gaussian'.
        min_score (float): a box below it goes.
        method (int): ``NAIVE``, ``LINEAR`` or ``GAUSSIAN``.
        offset (int): 0 or 1.

    Returns:
        Tensor: indices of the boxes that stay, (K,).
    """
    # One box after the other: for so little at a time NumPy is faster.
    threshold = _as_float32(iou_threshold)
    ends = _half_open(boxes, offset).numpy(force=True)
    areas = (ends[:, 2:] - ends[:, :2]).prod(1)
    new = wide(scores).numpy(force=True).copy()
    left = np.arange(len(new))
    kept: list[int] = []
    while len(left):
        best = left[new[left].argmax()]
        kept.append(best)
        left = left[left != best]
        start = np.maximum(ends[best, :2], ends[left, :2])
        stop = np.minimum(ends[best, 2:], ends[left, 2:])
        common = (stop - start).clip(min=0).prod(1)
        iou = common / (areas[best] + areas[left] - common)
        if method == GAUSSIAN:
            new[left] *= np.exp(-(iou**2) / sigma)
        else:
            new[left] *= np.where(
                iou >= threshold, 0 if method == NAIVE else 1 - iou, 1
            )
        left = left[new[left] >= min_score]
    indices = torch.tensor(kept, dtype=torch.long, device=boxes.device)
    dets[: len(kept), :4] = boxes[indices]
    dets[: len(kept), 4] = torch.from_numpy(new).to(boxes)[indices]
    return indices


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes, each a kept one and those that it suppresses.

    Args:
        dets (Tensor): (N, 5), boxes and scores.
        iou_threshold (float): from here on a box is suppressed.

    Returns:
        list[list[int]]: indices, in each group and over the groups by score.
    """
    dets = wide(dets)
    left = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(left):
        iou = _overlaps(dets[left[0], :4], dets[left[1:], :4])
        near = iou >= _as_float32(iou_threshold)
        groups.append([int(left[0]), *left[1:][near].tolist()])
        left = left[1:][~near]
    return groups


def bbox_overlaps(
    bboxes1: Tensor,
    bboxes2: Tensor,
    ious: Tensor,
    mode: int,
    aligned: bool,
    offset: int,
) -> None:
    """Write overlaps into ``ious``.

    Args:
        bboxes1 (Tensor): (N, 4).
        bboxes2 (Tensor): (M, 4), or (N, 4) if ``aligned``.
        ious (Tensor): (N, M), or (N,) if ``aligned``.
        mode (int): 0 divides by the union, 1 by the area of the first box.
        aligned (bool): compare the boxes one by one.
        offset (int): 0 or 1.
    """
    first, second = _half_open(bboxes1, offset), _half_open(bboxes2, offset)
    if not aligned:
        first = first[:, None]
    ious.copy_(_overlaps(first, second, by_first=mode == 1))


def _half_open(boxes: Tensor, offset: int) -> Tensor:
    """The same boxes without an offset: their ends are excluded."""
    boxes = wide(boxes)
    return boxes + boxes.new_tensor([0, 0, offset, offset])


def _overlaps(first: Tensor, second: Tensor, by_first: bool = False) -> Tensor:
    """Intersection over union of boxes (..., 4) that broadcast."""
    start = torch.maximum(first[..., :2], second[..., :2])
    end = torch.minimum(first[..., 2:], second[..., 2:])
    common = (end - start).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2]).prod(-1)
    if by_first:
        return common / area
    other = (second[..., 2:] - second[..., :2]).prod(-1)
    return common / (area + other - common)


def _as_float32(threshold: float) -> float:
    """As mmcv rounds it, so that an overlap of exactly 0.3 is not above."""
    return torch.tensor(threshold, dtype=torch.float32).item()
