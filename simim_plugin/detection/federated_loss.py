"""LVIS: sigmoid classification with the federated loss.

Zhou et al. 2021 ('Probabilistic two-stage detection'), as in Detectron2's
LVIS recipes for ViTDet (RECIPES, 'LVIS v1').

Shape key: R regions, K classes; class K is the background.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from ..errors import SimimError


@MODELS.register_module()
class FederatedLoss(BaseModule):
    """Binary cross-entropy on some of the classes, drawn for every batch.

    These are the classes of the batch's regions and, up to ``num_sampled``
    in all, others drawn without replacement with probabilities proportional
    to their image counts to the power of ``power``. The background counts
    as one of them, though it has no column. For the ``loss_cls`` of any of
    MMDetection's box heads: it tells the head to have no background column.

    Args:
        num_classes (int): K.
        ann_file (str, optional): LVIS annotations of the training set, the
            ``image_count`` of whose categories weights the classes. Read by
            ``init_weights``; a trained checkpoint holds the counts. Evenly
            weighted if None.
        num_sampled (int): classes per batch and process. Defaults to 50.
        power (float): see above. Defaults to 0.5.
        loss_weight (float): factor of the loss. Defaults to 1.0.
    """

    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    class_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        ann_file: str | None = None,
        num_sampled: int = 50,
        power: float = 0.5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ann_file = ann_file
        self.num_sampled = num_sampled
        self.power = power
        self.loss_weight = loss_weight
        self.register_buffer('class_weights', torch.ones(num_classes))

    def init_weights(self) -> None:
        """Take the weights of the classes from the annotation file.

        Raises:
            SimimError: if there is no such file, it does not count images,
                or it has another number of categories.
        """
        super().init_weights()
        if self.ann_file is not None:
            counts = torch.tensor(image_counts(self.ann_file))
            if len(counts) != self.num_classes:
                raise SimimError(
                    f'The annotation file {self.ann_file} has {len(counts)} '
                    f'categories and the box head {self.num_classes}; set '
                    'num_classes of the heads and of their losses.'
                )
            self.class_weights.copy_(counts.float() ** self.power)

    def get_cls_channels(self, num_classes: int) -> int:
        """Columns of the classifier: no background."""
        if num_classes != self.num_classes:
            raise SimimError(
                f'The box head has {num_classes} classes and its '
                f'FederatedLoss {self.num_classes}; set num_classes of both.'
            )
        return num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores (R, K + 1) of logits (R, K): the background's are 0."""
        return F.pad(cls_score.sigmoid(), (0, 1))

    def get_accuracy(
        self, cls_score: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Top-1 accuracy over the regions that hold an object, percent."""
        objects = labels < self.num_classes
        found = accuracy(cls_score[objects], labels[objects])
        return dict(acc_classes=found)

    def sample(self, labels: Tensor) -> Tensor:
        """Draw the classes of a batch.

        Args:
            labels (Tensor): (R,), from 0 to K.

        Returns:
            Tensor: (K,), whether a class takes part.
        """
        present = labels.unique()
        drawn = torch.zeros(
            self.num_classes + 1, dtype=torch.bool, device=labels.device
        )
        drawn[present] = True
        others = F.pad(self.class_weights, (0, 1)) * ~drawn
        count = min(
            self.num_sampled - len(present), int(others.count_nonzero())
        )
        if count > 0:
            drawn[others.multinomial(count)] = True
        return drawn[:-1]

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss, as MMDetection's heads ask for it.

        Args:
            cls_score (Tensor): (R, K) logits.
            labels (Tensor): (R,), from 0 to K.
            label_weights (Tensor, optional): (R,). Defaults to 1.
            avg_factor (float, optional): divides the sum over regions and
                classes. Defaults to R.
            reduction_override (str, optional): 'sum' does not divide, 'none'
                returns (R, K). Defaults to 'mean'.
        """
        targets = F.one_hot(labels, self.num_classes + 1)[:, :-1]
        loss = F.binary_cross_entropy_with_logits(
            cls_score.float(), targets.float(), reduction='none'
        )
        loss = self.loss_weight * loss * self.sample(labels)
        if label_weights is not None:
            loss = loss * label_weights[:, None]
        if reduction_override == 'none':
            return loss
        if reduction_override == 'sum':
            return loss.sum()
        return loss.sum() / (avg_factor or max(1, len(labels)))


@cache
def image_counts(file: str) -> tuple[int, ...]:
    """In how many images every category is, in the order of their ids.

    Args:
        file (str): LVIS annotations.

    Raises:
        SimimError: if there is no such file, or it does not count images.
    """
    if not Path(file).is_file():
        raise SimimError(
            f'There is no annotation file {file}; set ann_file of the data '
            'set and of the FederatedLoss.'
        )
    with open(file) as opened:
        categories = json.load(opened).get('categories', [])
    if not all('image_count' in category for category in categories):
        raise SimimError(
            f'The annotation file {file} has categories without an '
            'image_count, by which the FederatedLoss draws; use the LVIS '
            'training annotations, or ann_file=None to draw evenly.'
        )
    ordered = sorted(categories, key=lambda category: category['id'])
    return tuple(category['image_count'] for category in ordered)
