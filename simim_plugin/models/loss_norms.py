"""How prediction and target are normalised before the loss compares them.

Shape key: B batch, N tokens, M = B x N tokens, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from .token_norm import column_moments


@MODELS.register_module()
class NoLossNorm(nn.Module):
    """Leave both as they are; the others change one or both."""

    def forward(
        self, prediction: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Prepare both, (B, N, D), for the loss.

        Returns:
            tuple[Tensor, Tensor]: both as (M, D) in float32, or what is
            wider, the target without gradient.
        """
        dtype = torch.promote_types(prediction.dtype, torch.float32)
        prediction = prediction.flatten(0, 1).to(dtype)
        target = target.detach().flatten(0, 1).to(dtype)
        return self.on_prediction(prediction), self.on_target(target)

    def on_prediction(self, tokens: Tensor) -> Tensor:
        """Normalise predictions (M, D)."""
        return tokens

    def on_target(self, tokens: Tensor) -> Tensor:
        """Normalise targets (M, D)."""
        return tokens


@MODELS.register_module()
class MAELikeNorm(NoLossNorm):
    """LayerNorm without affine on the target: the method's own.

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
    """LayerNorm without affine on both: the released ``--online_ln``."""

    def on_prediction(self, tokens: Tensor) -> Tensor:
        """Normalise predictions (M, D)."""
        return self.on_target(tokens)


@MODELS.register_module()
class MoCoLikeNorm(NoLossNorm):
    """BatchNorm without affine, then l2 normalisation, on both.

    The statistics span the tokens of all processes, of each side by itself.
    Vectors become sqrt(D) long, as LayerNorm makes them, not 1: so the 1 / D
    of the losses does not make them vanish, and a weight of 0.02 here is
    0.02 D on unit vectors. (Ours; the paper names no weight for it.)

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
