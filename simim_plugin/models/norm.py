"""BatchNorm over the tokens of a batch, synchronised between processes."""

from __future__ import annotations

import torch
from mmengine.dist import get_world_size
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def column_moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each column, over the rows of all processes.

    Gradients flow through the sums, across the processes too.

    Args:
        values (Tensor): (M, D).

    Returns:
        tuple[Tensor, Tensor, Tensor]: mean (D,), biased variance (D,), and
        the number of rows in all processes, a scalar.
    """

    def total(part: Tensor) -> Tensor:
        return all_reduce(part) if get_world_size() > 1 else part

    count = total(values.new_tensor(len(values)))
    mean = total(values.sum(0)) / count
    var = total((values - mean).square().sum(0)) / count
    return mean, var, count


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d whose training statistics span all processes.

    On one process it is ``nn.BatchNorm1d``. On several it reduces its sums
    by a differentiable all-reduce, on any backend: ``nn.SyncBatchNorm``,
    into which ``sync_bn = 'torch'`` turns it on GPUs, refuses CPU tensors.
    """

    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (M, D) tokens by the mean and variance of each column."""
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

    Takes the place of LayerNorm in the projector's and decoder's blocks.

    Args:
        num_features (int): channels D.
        eps (float): added to the variance. Defaults to 1e-5.
        momentum (float): of the running statistics. Defaults to 0.1.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.bn = GlobalBatchNorm1d(num_features, eps=eps, momentum=momentum)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise tokens (B, N, D)."""
        return self.bn(tokens.flatten(0, 1)).view_as(tokens)
