"""The head: the dense UniGrad loss (paper eq. 4).

Shape key: B batch, N patches, M = B x N tokens, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class UniGradHead(BaseModule):
    """Squared distance to the positive plus lambda times the mean squared
    similarity to all target tokens, divided by D.

    Eq. 4 as printed sums over the negatives, omits 1 / D and has a minus
    before the distance (docs/method.md, "Loss").

    Args:
        negative_weight (float): lambda. Defaults to 0.02.
        eps (float): added to the variance in the target's LayerNorm.
            Defaults to 1e-5.
    """

    def __init__(
        self, negative_weight: float = 0.02, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.negative_weight = negative_weight
        self.eps = eps

    def loss(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compare the prediction with the target, both (B, N, D).

        Returns:
            dict[str, Tensor]: ``loss``, and for the log its parts
            ``positive_term`` and ``negative_term``, whose sum it is.
        """
        with torch.autocast(prediction.device.type, enabled=False):
            prediction, target = self.normalize(
                as_tokens(prediction), as_tokens(target.detach())
            )  # (M, D)
            tokens, dim = target.shape
            # p^T C p is the mean of (p . t)^2 over all M target tokens t.
            # It needs no M x M matrix of similarities.
            correlation = target.T @ target / tokens  # (D, D)
            all_reduce(correlation, op='mean')
            positive = (prediction - target).square().sum() / tokens
            similar = (prediction @ correlation) * prediction  # (M, D)
            negative = self.negative_weight * (similar.sum() / tokens)
            return dict(
                loss=(positive + negative) / dim,
                positive_term=positive.detach() / dim,
                negative_term=negative.detach() / dim,
            )

    def normalize(
        self, prediction: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply LayerNorm without affine to the target; both are (M, D)."""
        return prediction, F.layer_norm(target, target.shape[1:], eps=self.eps)


def as_tokens(features: Tensor) -> Tensor:
    """Flatten features (B, N, D) to tokens (M, D), in float32 or wider."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    return features.flatten(0, 1).to(dtype)
