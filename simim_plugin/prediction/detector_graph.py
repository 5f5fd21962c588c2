"""A two-stage detector as one graph of tensors, for ONNX.

MMDetection's own prediction reads sizes of images as Python numbers and
branches on the number of boxes, which a trace would freeze.

Shape key: A anchors of a level, K boxes, L levels, N classes, P cells of a
side of a region.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from ..errors import SimimError


class DetectorGraph(nn.Module):
    """Objects of one picture on a canvas of fixed size.

    Args:
        model (nn.Module): MMDetection's ``MaskRCNN`` or ``FasterRCNN``.
        canvas (Tensor): (1, C, H, W) normalised pixels, for the sizes of
            the pyramid.

    Raises:
        SimimError: for heads of another kind.
    """

    def __init__(self, model: Any, canvas: Tensor) -> None:
        super().__init__()
        _check_kind(model)
        self.model = model
        sizes = [level.shape[-2:] for level in self._features(canvas)]
        generator = model.rpn_head.prior_generator
        for k, anchors in enumerate(
            generator.grid_priors(sizes, device='cpu')
        ):
            self.register_buffer(f'anchors{k}', anchors)

    def forward(self, images: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return boxes (K, 4), scores (K,), labels (K,), masks (K, P, P).

        Args:
            images (Tensor): (1, C, H, W), normalised.
            size (Tensor): (2,) float32, height and width of the picture on
                the canvas, pixels.
        """
        features = self._features(images)
        proposals = self._proposals(features, size)
        boxes, scores, labels = self._objects(features, proposals, size)
        if not self.model.roi_head.with_mask:
            return boxes, scores, labels
        head = self.model.roi_head
        pooled = _pool(head.mask_roi_extractor, features, boxes)
        masks = head.mask_head(pooled)
        if not head.mask_head.class_agnostic:
            masks = masks[torch.arange(labels.shape[0]), labels]
        return boxes, scores, labels, masks.flatten(0, -3).sigmoid()

    def _features(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.neck(self.model.backbone(images))

    def _proposals(self, features: tuple, size: Tensor) -> Tensor:
        """Return the boxes (K, 4) of the region proposals."""
        head = self.model.rpn_head
        rules = head.test_cfg
        boxes, scores, levels = [], [], []
        for k, (logits, deltas) in enumerate(
            zip(*head(features), strict=True)
        ):
            flat = logits[0].permute(1, 2, 0).flatten().sigmoid()  # (A,)
            moves = deltas[0].permute(1, 2, 0).reshape(-1, 4)
            anchors = getattr(self, f'anchors{k}')
            best, index = flat.topk(min(rules.nms_pre, len(anchors)))
            boxes.append(
                _decode(head.bbox_coder, anchors[index], moves[index], size)
            )
            scores.append(best)
            levels.append(torch.full_like(index, k))
        found, score = torch.cat(boxes), torch.cat(scores)
        sides = found[:, 2:] - found[:, :2]
        large = (sides > rules.get('min_bbox_size', -1)).all(1).nonzero()[:, 0]
        found, score = found[large], score[large]
        level = torch.cat(levels)[large]
        kept = _separate_nms(found, score, level, rules.nms)
        return found[kept[: rules.max_per_img]]

    def _objects(
        self, features: tuple, proposals: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (K, 4), scores (K,) and labels (K,) of objects."""
        head, rules = self.model.roi_head.bbox_head, self.model.test_cfg.rcnn
        pooled = _pool(
            self.model.roi_head.bbox_roi_extractor, features, proposals
        )
        logits, moves = head(pooled)
        scores = logits.softmax(-1)[:, :-1]  # (K, N), the last is nothing
        moves = moves.unflatten(1, (-1, 4))  # (K, N or 1, 4)
        boxes = _decode(head.bbox_coder, proposals[:, None], moves, size)
        boxes = boxes.expand(-1, scores.shape[1], 4)
        chosen = scores > rules.score_thr
        place, label = chosen.nonzero().unbind(1)
        boxes, scores = boxes[place, label], scores[place, label]
        kept = _separate_nms(boxes, scores, label, rules.nms)
        kept = kept[: rules.max_per_img]
        return boxes[kept], scores[kept], label[kept]


def _check_kind(model: Any) -> None:
    """Raise unless the graph computes what the model does."""
    rules = model.test_cfg
    roi_head, rpn_head = model.roi_head, getattr(model, 'rpn_head', None)
    fault = None
    if type(roi_head) is not StandardRoIHead or rpn_head is None:
        fault = f'a {type(roi_head).__name__}'
    elif not rpn_head.use_sigmoid_cls:
        fault = 'region proposals by softmax'
    elif getattr(roi_head.bbox_head, 'custom_activation', False):
        fault = 'a box head with an activation of its own'
    elif not all(
        type(head.bbox_coder) is DeltaXYWHBBoxCoder
        and head.bbox_coder.clip_border
        and not head.bbox_coder.add_ctr_clamp
        for head in (rpn_head, roi_head.bbox_head)
    ):
        fault = 'boxes that are not coded by DeltaXYWHBBoxCoder'
    elif any(
        {**part.nms, 'type': part.nms.get('type', 'nms')}.keys()
        != {'type', 'iou_threshold'}
        or part.nms.get('type', 'nms') != 'nms'
        for part in (rules.rpn, rules.rcnn)
    ):
        fault = 'another suppression of boxes than nms by iou_threshold'
    if fault:
        raise SimimError(
            f'The ONNX graph of a detector knows Faster and Mask R-CNN with '
            f'one head, and this one has {fault}; predict with PyTorch.'
        )


def _decode(coder: Any, boxes: Tensor, moves: Tensor, size: Tensor) -> Tensor:
    """Move boxes (..., 4) and clip them to a size, as MMDetection does."""
    moves = moves * moves.new_tensor(coder.stds) + moves.new_tensor(
        coder.means
    )
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    limit = abs(math.log(16 / 1000))
    centre = centre + sides * moves[..., :2]
    half = sides * moves[..., 2:].clamp(-limit, limit).exp() * 0.5
    corner = size.flip(0)  # width and height
    start = torch.minimum((centre - half).clamp(min=0), corner)
    end = torch.minimum((centre + half).clamp(min=0), corner)
    return torch.cat([start, end], dim=-1)


def _separate_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, rules: Any
) -> Tensor:
    """Suppress boxes (K, 4) by better ones of their group; return indices."""
    # The extra corner gives an empty set a maximum.
    corners = torch.cat([boxes.flatten(), boxes.new_zeros(1)])
    shift = groups.to(boxes) * (corners.max() + 1)
    threshold = torch.tensor(rules.iou_threshold, dtype=torch.float32).item()
    return nms(boxes + shift[:, None], scores, threshold)


def _pool(extractor: Any, features: tuple, boxes: Tensor) -> Tensor:
    """Pool boxes (K, 4), each from its level, to (K, C, P, P)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    scale = sides.prod(1).sqrt() / extractor.finest_scale
    last = len(extractor.roi_layers) - 1
    level = torch.floor(torch.log2(scale + 1e-6)).clamp(0, last)
    pooled, places = [], []
    for k, layer in enumerate(extractor.roi_layers):
        place = (level == k).nonzero()[:, 0]
        rois = boxes[place]
        rois = torch.cat([rois.new_zeros(rois.shape[0], 1), rois], dim=1)
        pooled.append(
            roi_align(
                features[k],
                rois,
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
        )
        places.append(place)
    return torch.cat(pooled)[torch.cat(places).argsort()]
