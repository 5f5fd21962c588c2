"""The head: the dense UniGrad loss (paper eq. 4).

Shape key: B batch, N patches, M = B x N tokens, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor

from ..errors import SimimError
from ..tensors import wide


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
            # p^T C p is the mean of (p . t)^2 over all M target tokens t.
            # It needs no M x M matrix of similarities.
            correlation = target.T @ target / len(target)  # (D, D)
            all_reduce(correlation, op='mean')
            loss, positive, negative = UniGrad.apply(
                prediction, target, correlation, self.negative_weight
            )
            return dict(
                loss=loss, positive_term=positive, negative_term=negative
            )

    def normalize(
        self, prediction: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply LayerNorm without affine to the target; both are (M, D).

        An ablation normalises the prediction too.
        """
        return prediction, F.layer_norm(target, target.shape[1:], eps=self.eps)


class UniGrad(torch.autograd.Function):
    """The loss of given tokens, with its gradient from the forward pass.

    The gradient 2 (p - t + lambda C p) / (M D) reuses C p from the forward
    pass. The backward pass needs one tensor (M, D) and no matrix product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        prediction: Tensor,
        target: Tensor,
        correlation: Tensor,
        negative_weight: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss and its two terms, scalars.

        Args:
            ctx (FunctionCtx): keeps the gradient.
            prediction (Tensor): (M, D).
            target (Tensor): (M, D); it gets no gradient.
            correlation (Tensor): (D, D) of the target, symmetric.
            negative_weight (float): lambda.
        """
        count = prediction.numel()  # M x D
        distance = prediction - target
        similar = prediction @ correlation  # (M, D)
        positive = distance.square().sum() / count
        negative = (similar * prediction).sum() * (negative_weight / count)
        if ctx.needs_input_grad[0]:
            distance.add_(similar, alpha=negative_weight).mul_(2 / count)
            ctx.save_for_backward(distance)
        ctx.mark_non_differentiable(positive, negative)
        return positive + negative, positive, negative

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the kept gradient by that of the loss.

        Raises:
            SimimError: if a second derivative is asked for.
        """
        if torch.is_grad_enabled():
            raise SimimError(
                'UniGradHead has no second derivative; call backward or grad '
                'of its loss without create_graph.'
            )
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None


def as_tokens(features: Tensor) -> Tensor:
    """Flatten features (B, N, D) to tokens (M, D), in float32 or wider."""
    return wide(features.flatten(0, 1))
