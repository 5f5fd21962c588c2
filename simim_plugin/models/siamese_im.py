"""Siamese Image Modeling (CVPR 2023): the algorithm.

Shape key: B batch, N patches, V visible patches, E extra tokens (the cls
token, and registers if there are), C backbone channels, D decoder channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from ..checkpoint.loading import start_from
from ..datasets.collating import PairSamples
from ..geometry import Grid, PairGeometry
from ..tensors import to_device
from .momentum_copy import MomentumCopy


@MODELS.register_module()
class SiameseIM(BaseSelfSupervisor):
    """Predict the dense features of one view of an image from another,
    masked view and the relative position of the two.

    The target branch is a momentum copy of the backbone and the projector.
    :class:`simim_plugin.engine.MomentumHook` updates it.

    Args:
        backbone (dict): the online encoder, a :class:`SiameseIMViT`.
        projector (dict): the online projector.
        neck (dict): the relative-position decoder.
        head (dict): the loss.
        pretrained (str | dict, optional): file to start from: a whole
            SiameseIM model of this package or the released code, or the
            encoder of any family that docs/encoders.md lists. Or arguments
            of :func:`simim_plugin.checkpoint.loading.start_from`, such as
            ``dict(file=..., channels='mean')``.
        **kwargs: see :class:`mmpretrain.models.BaseSelfSupervisor`.
    """

    def __init__(
        self,
        backbone: dict,
        projector: dict,
        neck: dict,
        head: dict,
        pretrained: str | dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **kwargs)
        self.projector = MODELS.build(projector)
        self.pretrained = pretrained
        self.target = MomentumCopy(
            dict(backbone=self.backbone, projector=self.projector)
        )

    def loss(
        self,
        inputs: Sequence[Tensor],
        data_samples: Sequence[DataSample] | PairSamples,
    ) -> dict[str, Tensor]:
        """Compute the loss of one step.

        Args:
            inputs (Sequence[Tensor]): the online and the target view, each
                (B, 3, H, W), normalised. They may be smaller than
                ``img_size`` of the backbone.
            data_samples (Sequence[DataSample]): one per image, with
                ``mask``, (N,), True on masked patches of the online view,
                and ``geometry``, a :class:`PairGeometry`; the training loop
                passes them as :class:`PairSamples`.

        Returns:
            dict[str, Tensor]: ``loss``, and for the log ``positive_term``
            and ``negative_term``, its two parts.
        """
        online_view, target_view = inputs
        visible, geometry = self._collate(data_samples)
        online = self.backbone(online_view, visible)  # (B, E + V, C)
        online = self.projector(online)  # (B, E + V, D)
        prediction = self.neck(
            online, visible, geometry, grids=self._grids(inputs)
        )  # (B, N, D)
        target = self.encode_target(target_view)  # (B, N, D)
        return self.head.loss(prediction, target)

    @torch.no_grad()
    def encode_target(self, view: Tensor) -> Tensor:
        """Return target features (B, N, D) of a whole view (B, 3, H, W)."""
        (tokens,) = self.target['backbone'](view)  # (B, E + N, C)
        return self.target['projector'](tokens)[:, self._extra :]

    def update_target(self, momentum: float) -> None:
        """Move every target parameter towards its online counterpart.

        BatchNorm buffers do not move: each branch has its own statistics.

        Args:
            momentum (float): weight of the old target, 0 to 1.
        """
        self.target.follow(momentum)

    def init_weights(self) -> None:
        """Initialise the online branch, load ``pretrained``, and copy the
        online branch to the target if the file has no target."""
        super().init_weights()
        if self.pretrained is None or not start_from(self, self.pretrained):
            self.update_target(momentum=0.0)

    def _grids(self, views: Sequence[Tensor]) -> list[Grid]:
        """Return rows and columns of the patches of each view."""
        height, width = self.backbone.patch_embed.projection.kernel_size
        return [
            (view.shape[-2] // height, view.shape[-1] // width)
            for view in views
        ]

    @property
    def _extra(self) -> int:
        """E, the number of tokens before the patches."""
        return self.backbone.num_extra_tokens

    def _collate(
        self, data_samples: Sequence[DataSample] | PairSamples
    ) -> tuple[Tensor, PairGeometry]:
        """Return visible patch indices (B, V) and the batch's geometry.

        Both move in one copy, without a wait for the device.
        """
        if not isinstance(data_samples, PairSamples):
            data_samples = PairSamples.of(data_samples)
        device = self.data_preprocessor.device
        visible, pairs = (
            to_device(part, device)
            for part in (data_samples.visible, data_samples.pairs)
        )
        return visible, PairGeometry.unpacked(pairs)
