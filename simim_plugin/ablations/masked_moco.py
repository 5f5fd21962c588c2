"""MoCo-v3 on masked views, with the UniGrad loss (paper table 3, last row).

Shape key: B batch, E extra tokens (the cls token, and registers if there
are), V visible patches, C backbone channels, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import MoCoV3, MoCoV3Head, NonLinearNeck
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..datasets.collating import PairSamples
from ..models.momentum_copy import stop_drops


@MODELS.register_module()
class MaskedMoCoV3(MoCoV3):
    """MMPretrain's MoCo-v3 with queries from the visible patches only.

    Each view serves as a query, masked, and as a key, whole. Both queries use
    the same mask. :class:`simim_plugin.engine.MomentumHook` updates the key
    encoder, as it does the method's target branch.

    Args:
        **kwargs: see :class:`mmpretrain.models.MoCoV3`; its own momentum is
            not used.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for neck in (self.neck, self.momentum_encoder.module[1]):
            neck.num_extra_tokens = self.backbone.num_extra_tokens
        stop_drops(self.momentum_encoder)

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the mean loss of both directions.

        Args:
            inputs (Sequence[Tensor]): two views, each (B, 3, H, W).
            data_samples (Sequence[DataSample]): one per image, with its
                ``mask``, (N,), True on masked patches.

        Returns:
            dict[str, Tensor]: ``loss`` and the other outputs of the head.
        """
        visible = PairSamples.visible_of(data_samples)
        visible = visible.to(inputs[0].device)  # (B, V)
        (q1,), (q2,) = (
            self.neck((self.backbone(view, visible),)) for view in inputs
        )  # (B, D) each
        with torch.no_grad():
            (k1,), (k2,) = map(self.momentum_encoder, inputs)
        one, two = self.head.loss(q1, k2), self.head.loss(q2, k1)
        return {name: (one[name] + two[name]) / 2 for name in one}

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move every key parameter towards its query counterpart.

        Args:
            momentum (float): weight of the old key parameter, 0 to 1.
        """
        online = nn.Sequential(self.backbone, self.neck)
        torch._foreach_lerp_(
            [*self.momentum_encoder.module.parameters()],
            [*online.parameters()],
            1 - momentum,
        )

    def init_weights(self) -> None:
        """Initialise the query encoder, then copy it to the keys."""
        super().init_weights()
        self.update_target(momentum=0.0)


@MODELS.register_module()
class MeanTokenNeck(NonLinearNeck):
    """MMPretrain's MLP on the mean of the patch tokens.

    :class:`MaskedMoCoV3` sets ``num_extra_tokens``, E, to the backbone's.

    Args:
        **kwargs: see :class:`mmpretrain.models.NonLinearNeck`.
    """

    num_extra_tokens = 1

    def forward(self, x: tuple[Tensor]) -> tuple[Tensor]:
        """Project tokens (B, E + V, C), the extra ones first, to (B, D)."""
        (tokens,) = x
        patches = tokens[:, self.num_extra_tokens :]
        return super().forward((patches.mean(dim=1),))


@MODELS.register_module()
class PredictorHead(MoCoV3Head):
    """MMPretrain's predictor, followed by another loss than InfoNCE.

    Args:
        predictor (dict): a neck that maps (B, D) to (B, D).
        loss (dict): the head that compares the results.
    """

    def loss(
        self, base_out: Tensor, momentum_out: Tensor
    ) -> dict[str, Tensor]:
        """Compare queries with keys, both (B, D)."""
        (prediction,) = self.predictor([base_out])
        return self.loss_module.loss(
            prediction[:, None], momentum_out[:, None]
        )
