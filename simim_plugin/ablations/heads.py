"""Heads of the ablations.

Shape key: B batch, N tokens, M = B x N tokens, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor

from ..models.head import UniGradHead, as_tokens
from ..tensors import wide


@MODELS.register_module()
class NormedUniGradHead(UniGradHead):
    """The UniGrad loss with a selectable normalisation.

    Args:
        norm (dict): a class of :mod:`simim_plugin.ablations.loss_norms`.
        negative_weight (float): lambda. Defaults to 0.02.
    """

    def __init__(self, norm: dict, negative_weight: float = 0.02) -> None:
        super().__init__(negative_weight)
        self.norm = MODELS.build(norm)

    def normalize(
        self, prediction: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Normalise prediction and target, both (M, D)."""
        return self.norm(prediction, target)


@MODELS.register_module()
class L2Head(BaseModule):
    """Squared distance to the positive over D: UniGrad without negatives.

    Args:
        norm (dict): a class of :mod:`simim_plugin.ablations.loss_norms`.
            Defaults to the method's normalisation.
    """

    def __init__(
        self,
        norm: dict = dict(type='MAELikeNorm'),  # noqa: B006
    ) -> None:
        super().__init__()
        self.norm = MODELS.build(norm)

    def loss(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compare the prediction with the target, both (B, N, D)."""
        with torch.autocast(prediction.device.type, enabled=False):
            prediction, target = self.norm(
                as_tokens(prediction), as_tokens(target.detach())
            )
            return dict(loss=F.mse_loss(prediction, target))


@MODELS.register_module()
class GlobalHead(BaseModule):
    """Apply another head to one token per image, the mean token.

    Args:
        head (dict): the head to apply.
    """

    def __init__(self, head: dict) -> None:
        super().__init__()
        self.head = MODELS.build(head)

    def loss(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compare the prediction with the target, both (B, N, D)."""
        return self.head.loss(_mean_token(prediction), _mean_token(target))


def _mean_token(tokens: Tensor) -> Tensor:
    """Average (B, N, D) to (B, 1, D), in float32 for precision."""
    return wide(tokens).mean(dim=1, keepdim=True)
