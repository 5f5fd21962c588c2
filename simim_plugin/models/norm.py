"""BatchNorm over all tokens of a batch, synchronised across processes.

Shape key: B batch, N tokens, M = B x N rows, D channels.
"""

from __future__ import annotations

import torch
from mmengine.dist import get_world_size
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def column_moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean and variance per column, over the rows of all processes.

    Gradients flow back across processes.

    Args:
        values (Tensor): (M, D).

    Returns:
        tuple[Tensor, Tensor, Tensor]: mean (D,), biased variance (D,), and
        the total number of rows, a scalar.
    """

    def total(part: Tensor) -> Tensor:
        return all_reduce(part) if get_world_size() > 1 else part

    count = total(values.new_tensor(len(values)))
    mean = total(values.sum(0)) / count
    var = total((values - mean).square().sum(0)) / count
    return mean, var, count


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d whose training statistics span all processes.

    In one process it equals ``nn.BatchNorm1d``. In several it reduces the
    sums by a differentiable all-reduce on any backend. On GPUs
    ``sync_bn = 'torch'`` replaces it by ``nn.SyncBatchNorm``, which does not
    support CPU tensors.
    """

    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each column of (M, D)."""
        if not self.training or get_world_size() == 1:
            return super().forward(x)
        values = x.to(self.weight.dtype)  # (M, D)
        mean, var, count = column_moments(values)
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = var * count / (count - 1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return ((values - mean) * scale + self.bias).to(x.dtype)


@MODELS.register_module()
class TokenBatchNorm(nn.Module):
    """BatchNorm with one statistic per channel over batch and tokens.

    It replaces LayerNorm in the blocks of the projector and the decoder.

    Args:
        num_features (int): channels D.
        eps (float): added to the variance. Defaults to 1e-5.
        momentum (float): rate of the running statistics. Defaults to 0.1.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.bn = GlobalBatchNorm1d(num_features, eps=eps, momentum=momentum)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise tokens (B, N, D)."""
        return self.bn(tokens.flatten(0, 1)).view_as(tokens)
