"""MSN (arXiv 2204.07141): assign masked views as their target view.

Shape key: B batch, V anchor views, C backbone channels, D output channels,
K prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..datasets.collating import PairSamples
from ..errors import SimimError
from .assignment import assignment_loss, target_assignments
from .student_teacher import StudentTeacher


@MODELS.register_module()
class ProjectionMLP(BaseModule):
    """MSN's head: three linear layers, BatchNorm and GELU between them.

    Args:
        in_dims (int): C.
        hidden_dims (int): of both hidden layers. Defaults to 2048.
        out_dims (int): D. Defaults to 256.
    """

    def __init__(
        self, in_dims: int, hidden_dims: int = 2048, out_dims: int = 256
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (in_dims, hidden_dims):
            layers += [nn.Linear(width, hidden_dims)]
            layers += [nn.BatchNorm1d(hidden_dims), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_dims, out_dims))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, C) to (B, D)."""
        return self.layers(features)


@MODELS.register_module()
class AssignmentHead(BaseModule):
    """MSN's prototypes and loss.

    Args:
        dims (int): D.
        num_prototypes (int): K, at least 2. Defaults to 1024.
        temperature (float): above 0. Defaults to 0.1.
        sharpening (float): of the targets, above 0. Defaults to 0.25.
        me_max_weight (float): of the term that spreads the mean assignment.
            Defaults to 1.
        sinkhorn (bool): balance the targets. Defaults to True.

    Raises:
        SimimError: for fewer than two prototypes, and for a temperature or
            a sharpening of 0 or less.
    """

    def __init__(
        self,
        dims: int,
        num_prototypes: int = 1024,
        temperature: float = 0.1,
        sharpening: float = 0.25,
        me_max_weight: float = 1.0,
        sinkhorn: bool = True,
    ) -> None:
        super().__init__()
        if num_prototypes < 2:
            raise SimimError(
                f'num_prototypes of AssignmentHead is {num_prototypes}; set '
                'it to at least 2.'
            )
        if min(temperature, sharpening) <= 0:
            raise SimimError(
                f'temperature and sharpening of AssignmentHead are '
                f'{temperature} and {sharpening}; set both above 0.'
            )
        self.prototypes = nn.Parameter(torch.zeros(num_prototypes, dims))
        self.temperature = temperature
        self.sharpening = sharpening
        self.me_max_weight = me_max_weight
        self.sinkhorn = sinkhorn

    def init_weights(self) -> None:
        """Draw prototypes as the weights of a linear layer."""
        super().init_weights()
        nn.init.kaiming_uniform_(self.prototypes, a=5**0.5)

    def loss(self, anchors: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            anchors (Tensor): (V * B, D), view by view.
            targets (Tensor): (B, D).
        """
        with torch.autocast(anchors.device.type, enabled=False):
            wanted = target_assignments(
                targets,
                self.prototypes,
                self.temperature,
                self.sharpening,
                self.sinkhorn,
            )
            return assignment_loss(
                anchors,
                self.prototypes,
                wanted,
                self.temperature,
                self.me_max_weight,
            )


@MODELS.register_module()
class ViTMSN(StudentTeacher):
    """Assign anchor views to prototypes as the teacher assigns the target.

    The first view is the target, the second an anchor whose masked patches
    are left out, the others smaller anchors.
    """

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the loss of one step.

        Args:
            inputs (Sequence[Tensor]): the target and the anchors, each
                (B, 3, H, W).
            data_samples (Sequence[DataSample]): with ``mask``, (N,), True on
                the patches that the second view leaves out.

        Returns:
            dict[str, Tensor]: ``loss``, ``assignment_term`` and
            ``spread_term``.
        """
        target, masked, *small = inputs
        visible = PairSamples.visible_of(data_samples)
        tokens = self.backbone(masked, visible.to(masked.device))
        anchors = [tokens[:, 0]]
        if small:
            anchors.append(self.student_tokens(torch.cat(small))[:, 0])
        with torch.no_grad():
            wanted = self.target['neck'](self.teacher_tokens(target)[:, 0])
        return self.head.loss(self.neck(torch.cat(anchors)), wanted)
