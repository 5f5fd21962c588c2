"""Overlaps of boxes and non-maximum suppression.

Shape key: N, M boxes, as (x1, y1, x2, y2) in pixels. ``offset`` is 1 if a box
includes its last pixel, with a width of x2 - x1 + 1, and 0 otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from ..tensors import wide

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2
"""The methods of soft-NMS: drop overlapping boxes, or lower their scores."""


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int
) -> Tensor:
    """Return the indices of the boxes that stay, best first.

    Args:
        boxes (Tensor): (N, 4).
        scores (Tensor): (N,).
        iou_threshold (float): a box that overlaps a better one by more is
            dropped.
        offset (int): 0 or 1.
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
    """Suppress boxes by lowering their scores (Bodla et al. 2017).

    Args:
        boxes (Tensor): (N, 4).
        scores (Tensor): (N,).
        dets (Tensor): (N, 5); the first K rows receive the boxes that stay
            and their new scores, best first.
        iou_threshold (float): 'naive' and 'linear' act from this overlap on.
        sigma (float): width of 'gaussian'.
        min_score (float): boxes with a lower score are dropped.
        method (int): ``NAIVE``, ``LINEAR`` or ``GAUSSIAN``.
        offset (int): 0 or 1.

    Returns:
        Tensor: indices of the boxes that stay, (K,).
    """
    threshold = _as_float32(iou_threshold)

    def factor(iou: np.ndarray) -> np.ndarray:
        if method == GAUSSIAN:
            return np.exp(-(iou**2) / sigma)
        return np.where(iou >= threshold, 0 if method == NAIVE else 1 - iou, 1)

    kept, kept_scores = _soften(
        _half_open(boxes, offset).numpy(force=True),
        *(wide(scores).numpy(force=True), factor, min_score),
    )
    indices = torch.tensor(kept, dtype=torch.long, device=boxes.device)
    dets[: len(kept), :4] = boxes[indices]
    dets[: len(kept), 4] = torch.tensor(np.array(kept_scores)).to(boxes)
    return indices


def _soften(
    boxes: np.ndarray,
    scores: np.ndarray,
    factor: Callable[[np.ndarray], np.ndarray],
    min_score: float,
) -> tuple[list[int], list[float]]:
    """Return indices and new scores of the boxes that stay, best first.

    The loop takes one box at a time, for which NumPy is faster than torch.
    """
    ends, left = np.ascontiguousarray(boxes.T), np.arange(len(boxes))
    ends = np.concatenate([ends, (ends[2:] - ends[:2]).prod(0, keepdims=True)])
    kept, kept_scores = [], []
    while len(left):
        best = scores.argmax()
        kept.append(left[best])
        kept_scores.append(scores[best])
        x1, y1, x2, y2, areas = ends
        width = np.minimum(x2, x2[best]) - np.maximum(x1, x1[best])
        height = np.minimum(y2, y2[best]) - np.maximum(y1, y1[best])
        common = np.maximum(width, 0) * np.maximum(height, 0)
        scores = scores * factor(common / (areas[best] + areas - common))
        stays = scores >= min_score
        stays[best] = False
        ends, scores, left = ends[:, stays], scores[stays], left[stays]
    return kept, kept_scores


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group every box that stays with those that it suppresses.

    Args:
        dets (Tensor): (N, 5), boxes and scores.
        iou_threshold (float): boxes are suppressed from this overlap on.

    Returns:
        list[list[int]]: indices; groups and their members by falling score.
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
        aligned (bool): compare the boxes pair by pair.
        offset (int): 0 or 1.
    """
    first, second = _half_open(bboxes1, offset), _half_open(bboxes2, offset)
    if not aligned:
        first = first[:, None]
    ious.copy_(_overlaps(first, second, by_first=mode == 1))


def _half_open(boxes: Tensor, offset: int) -> Tensor:
    """Return the same boxes with excluded ends, whose offset is 0."""
    boxes = wide(boxes)
    return boxes + boxes.new_tensor([0, 0, offset, offset])


def _overlaps(first: Tensor, second: Tensor, by_first: bool = False) -> Tensor:
    """Return the intersection over union of boxes (..., 4) that broadcast."""
    start = torch.maximum(first[..., :2], second[..., :2])
    end = torch.minimum(first[..., 2:], second[..., 2:])
    common = (end - start).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2]).prod(-1)
    if by_first:
        return common / area
    other = (second[..., 2:] - second[..., :2]).prod(-1)
    return common / (area + other - common)


def _as_float32(threshold: float) -> float:
    """Round as mmcv does: an overlap of float32 0.3 does not exceed 0.3."""
    return torch.tensor(threshold, dtype=torch.float32).item()
