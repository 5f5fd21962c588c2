"""Sigmoid classification with the federated loss, for LVIS.

Zhou et al. 2021 ('Probabilistic two-stage detection'), as in Detectron2's
LVIS recipes for ViTDet.

Shape key: R regions, K classes; class K is the background.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from ..errors import SimimError
from .annotations import counted_categories


@MODELS.register_module()
class FederatedLoss(BaseModule):
    """Binary cross-entropy on classes that are drawn for every batch.

    The loss takes all classes of the batch's regions, and draws others until
    there are ``num_sampled``: without replacement, with probabilities
    proportional to their image counts to the power of ``power``. The
    background counts as a class but has no column. Use this as ``loss_cls``
    of any box head of MMDetection; it removes the head's background column.

    Args:
        num_classes (int): K.
        ann_file (str, optional): LVIS annotations of the training set, with
            an ``image_count`` for every category. ``init_weights`` reads
            them; checkpoints hold the weights. Defaults to None: draw evenly.
        num_sampled (int): classes per batch and process. Defaults to 50.
        power (float): exponent of the image counts. Defaults to 0.5.
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
        """Read the weights of the classes from the annotation file.

        Raises:
            SimimError: if the file is missing, has no image counts or has
                another number of categories.
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
        """Return the columns of the classifier, without background."""
        if num_classes != self.num_classes:
            raise SimimError(
                f'The box head has {num_classes} classes and its '
                f'FederatedLoss {self.num_classes}; set num_classes of both.'
            )
        return num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return scores (R, K + 1) of logits (R, K); background scores 0."""
        return F.pad(cls_score.sigmoid(), (0, 1))

    def get_accuracy(
        self, cls_score: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Return the top-1 accuracy of regions with an object, in percent."""
        objects = labels < self.num_classes
        found = accuracy(cls_score[objects], labels[objects])
        return dict(acc_classes=found)

    def sample(self, labels: Tensor) -> Tensor:
        """Draw the classes of a batch.

        Args:
            labels (Tensor): (R,), from 0 to K.

        Returns:
            Tensor: (K,), mask of the classes that take part.
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
        """Compute the loss, with the arguments of MMDetection's losses.

        Args:
            cls_score (Tensor): (R, K) logits.
            labels (Tensor): (R,), from 0 to K.
            label_weights (Tensor, optional): (R,). Defaults to 1.
            avg_factor (float, optional): divisor of the sum over regions
                and classes. Defaults to R.
            reduction_override (str, optional): 'sum' omits the division,
                'none' returns (R, K). Defaults to 'mean'.
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
    """Read the image counts of all categories, in the order of their ids.

    Args:
        file (str): LVIS annotations.

    Raises:
        SimimError: if the file is missing or broken, or has no image counts.
    """
    counts = [category['image_count'] for category in counted_categories(file)]
    if not any(counts):
        raise SimimError(
            f'The annotation file {file} counts no image of any category, so '
            'that the FederatedLoss has no class to draw; use the LVIS '
            'training annotations, or ann_file=None to draw evenly.'
        )
    return tuple(counts)
