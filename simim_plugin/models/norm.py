"""BatchNorm over all tokens of the batches of all processes.

Shape key: B batch, N tokens, M = B x N rows, D channels.
"""

from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..runs.batch_norm import GlobalBatchNorm


@MODELS.register_module()
class TokenBatchNorm(nn.Module):
    """BatchNorm with one statistic per channel over batch and tokens.

    It replaces LayerNorm in the blocks of the projector and the decoder. Its
    training statistics always span all processes, whatever ``sync_bn`` is.

    Args:
        num_features (int): channels D.
        eps (float): added to the variance. Defaults to 1e-5.
        momentum (float): rate of the running statistics. Defaults to 0.1.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.bn = GlobalBatchNorm(num_features, eps=eps, momentum=momentum)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise tokens (B, N, D)."""
        return self.bn(tokens.flatten(0, 1)).view_as(tokens)
