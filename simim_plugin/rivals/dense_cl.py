"""DenseCL (arXiv 2011.09157) on a ViT.

The sources know it on convolutional networks only: the maps to global and
dense outputs are two-layer MLPs on the mean of the patches and on each patch,
and the queue of dense keys holds the mean key of each image. Both are ours.

Shape key: B batch, N patches, E extra tokens, C backbone channels, D output
channels, Q queued keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..errors import SimimError
from ..tensors import wide
from .contrast import DenseMatches, dense_contrast
from .moving import KeyQueue
from .student_teacher import StudentTeacher


@MODELS.register_module()
class DenseMLPs(BaseModule):
    """Two-layer MLPs on the mean of the patches and on each patch.

    Args:
        in_dims (int): C.
        hidden_dims (int): of both MLPs.
        out_dims (int): D.
    """

    def __init__(self, in_dims: int, hidden_dims: int, out_dims: int) -> None:
        super().__init__()
        self.whole, self.dense = (
            nn.Sequential(
                nn.Linear(in_dims, hidden_dims),
                nn.ReLU(),
                nn.Linear(hidden_dims, out_dims),
            )
            for _ in range(2)
        )

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Map patches (B, N, C) to (B, D) and (B, D, N)."""
        return self.whole(patches.mean(dim=1)), self.dense(patches).mT


@MODELS.register_module()
class DenseContrastHead(BaseModule):
    """DenseCL's loss and its queues.

    Args:
        dims (int): D.
        queue_length (int): Q, at least 1. Defaults to 65536.
        temperature (float): above 0. Defaults to 0.2.
        dense_weight (float): share of the patches, 0 to 1. Defaults to 0.5.

    Raises:
        SimimError: for a setting out of range.
    """

    def __init__(
        self,
        dims: int,
        queue_length: int = 65536,
        temperature: float = 0.2,
        dense_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if queue_length < 1 or temperature <= 0 or not 0 <= dense_weight <= 1:
            raise SimimError(
                f'DenseContrastHead has queue_length={queue_length}, '
                f'temperature={temperature} and dense_weight={dense_weight}; '
                'set them to at least 1, above 0, and 0 to 1.'
            )
        self.queue = KeyQueue(dims, queue_length)
        self.dense_queue = KeyQueue(dims, queue_length)
        self.temperature = temperature
        self.dense_weight = dense_weight

    def loss(self, parts: DenseMatches) -> dict[str, Tensor]:
        """Compute the loss of a batch, and note its keys."""
        with torch.autocast(parts.query.device.type, enabled=False):
            losses = dense_contrast(
                parts,
                self.queue.value,
                self.dense_queue.value,
                self.temperature,
                self.dense_weight,
            )
            self.queue.observe(F.normalize(wide(parts.key), dim=1))
            dense = F.normalize(wide(parts.key_grid), dim=1).mean(dim=2)
            self.dense_queue.observe(F.normalize(dense, dim=1))
        return losses


@MODELS.register_module()
class ViTDenseCL(StudentTeacher):
    """Match images, and patches by the cosine of their backbone features.

    The first view is the query, and the second, by the teacher, the key.
    """

    uses_cls_token = False

    def compared(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        """Return the outputs (B, D) of the images."""
        return outputs[0]

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the loss of one step.

        Args:
            inputs (Sequence[Tensor]): two views, each (B, 3, H, W).
            data_samples (Sequence[DataSample]): not used.

        Returns:
            dict[str, Tensor]: ``loss``, ``global_term`` and ``dense_term``.
        """
        extra = self.backbone.num_extra_tokens
        queries = self.student_tokens(inputs[0])[:, extra:]
        query, query_grid = self.neck(queries)
        with torch.no_grad():
            keys = self.teacher_tokens(inputs[1])[:, extra:]
            key, key_grid = self.target['neck'](keys)
        parts = DenseMatches(
            query, key, query_grid, key_grid, queries.detach().mT, keys.mT
        )
        return self.head.loss(parts)
