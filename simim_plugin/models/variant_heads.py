"""The heads of the ablations; the method's own is ``unigrad_head``.

Shape key: B batch, N tokens, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class L2Head(BaseModule):
    """Squared distance to the positive, over D: UniGrad without negatives.

    Args:
        norm (dict): one of ``loss_norms``. Defaults to the method's own.
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
            return dict(loss=F.mse_loss(*self.norm(prediction, target)))


@MODELS.register_module()
class GlobalHead(BaseModule):
    """Another head's loss on one token per image, the mean of its tokens.

    Args:
        head (dict): the other head.
    """

    def __init__(self, head: dict) -> None:
        super().__init__()
        self.head = MODELS.build(head)

    def loss(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compare the prediction with the target, both (B, N, D)."""
        return self.head.loss(_mean_token(prediction), _mean_token(target))


def _mean_token(tokens: Tensor) -> Tensor:
    """Mean (B, 1, D) of (B, N, D); in bfloat16 it would lose its digits."""
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    return tokens.mean(dim=1, keepdim=True, dtype=dtype)
