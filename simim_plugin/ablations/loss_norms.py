"""Normalisations of prediction and target before the loss.

Shape key: M tokens of a batch, D channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..runs.batch_norm import column_moments


@MODELS.register_module()
class NoLossNorm(nn.Module):
    """No normalisation; subclasses normalise one or both sides."""

    def forward(
        self, prediction: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Normalise prediction and target, both (M, D)."""
        return self.on_prediction(prediction), self.on_target(target)

    def on_prediction(self, tokens: Tensor) -> Tensor:
        """Normalise predictions (M, D)."""
        return tokens

    def on_target(self, tokens: Tensor) -> Tensor:
        """Normalise targets (M, D)."""
        return tokens


@MODELS.register_module()
class MAELikeNorm(NoLossNorm):
    """LayerNorm without affine on the target: the method's choice.

    Args:
        eps (float): added to the variance. Defaults to 1e-5.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def on_target(self, tokens: Tensor) -> Tensor:
        """Normalise targets (M, D)."""
        return F.layer_norm(tokens, tokens.shape[1:], eps=self.eps)


@MODELS.register_module()
class OnlineNorm(MAELikeNorm):
    """LayerNorm without affine on both sides (released ``--online_ln``)."""

    def on_prediction(self, tokens: Tensor) -> Tensor:
        """Normalise predictions (M, D)."""
        return self.on_target(tokens)


@MODELS.register_module()
class MoCoLikeNorm(NoLossNorm):
    """BatchNorm without affine, then L2 normalisation, on both sides.

    Each side has its own statistics over the tokens of all processes. The
    vectors are scaled to length sqrt(D), as after LayerNorm, to balance the
    1 / D of the losses: a weight of 0.02 here equals 0.02 D on unit vectors.
    This choice is ours; the paper names no weight for this norm.

    Args:
        eps (float): added to the variance. Defaults to 1e-5.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def on_prediction(self, tokens: Tensor) -> Tensor:
        """Normalise predictions (M, D)."""
        mean, var, _ = column_moments(tokens)
        tokens = (tokens - mean) * (var + self.eps).rsqrt()
        return F.normalize(tokens, dim=1) * tokens.shape[1] ** 0.5

    def on_target(self, tokens: Tensor) -> Tensor:
        """Normalise targets (M, D)."""
        return self.on_prediction(tokens)
