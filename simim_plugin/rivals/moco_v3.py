"""MoCo-v3 (arXiv 2104.02057) with the teacher moved once per step.

MMPretrain's own moves it in every forward pass, and its ViT changes a table
of its class.

Shape key: B batch, C backbone channels, D output channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmpretrain.models import NonLinearNeck
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from ..errors import SimimError
from .contrast import info_nce
from .student_teacher import StudentTeacher


@MODELS.register_module()
class FeatureMLP(NonLinearNeck):
    """MMPretrain's MLP on features (B, C) instead of maps.

    Args:
        **kwargs: see :class:`mmpretrain.models.NonLinearNeck`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(with_avg_pool=False, **kwargs)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C) to (B, D)."""
        (outputs,) = super().forward((features,))
        return outputs


@MODELS.register_module()
class ViTMoCoV3(StudentTeacher):
    """Match the cls tokens of two views of an image among all images.

    Each view is a query and, by the teacher, a key.
    """

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the loss of both directions.

        Args:
            inputs (Sequence[Tensor]): two views, each (B, 3, H, W).
            data_samples (Sequence[DataSample]): not used.

        Returns:
            dict[str, Tensor]: ``loss``.
        """
        queries = [
            self.neck(self.student_tokens(view)[:, 0]) for view in inputs
        ]
        with torch.no_grad():
            keys = [
                self.target['neck'](self.teacher_tokens(view)[:, 0])
                for view in inputs
            ]
        one = self.head.loss(queries[0], keys[1])
        two = self.head.loss(queries[1], keys[0])
        return dict(loss=one + two)


@MODELS.register_module()
class InfoNCEHead(BaseModule):
    """MoCo-v3's predictor and loss.

    Args:
        predictor (dict): maps queries (B, D) to (B, D).
        temperature (float): above 0. Defaults to 0.2.

    Raises:
        SimimError: for a temperature of 0 or less.
    """

    def __init__(self, predictor: dict, temperature: float = 0.2) -> None:
        super().__init__()
        if temperature <= 0:
            raise SimimError(
                f'temperature of InfoNCEHead is {temperature}; set it above 0.'
            )
        self.predictor = MODELS.build(predictor)
        self.temperature = temperature

    def loss(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the loss of queries (B, D) and their keys (B, D)."""
        prediction = self.predictor(query)
        with torch.autocast(query.device.type, enabled=False):
            return info_nce(prediction, key, self.temperature)
