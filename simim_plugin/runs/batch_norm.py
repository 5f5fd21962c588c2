"""BatchNorm whose statistics span all processes, on any backend.

Shape key: B batch, M rows, D channels.
"""

from __future__ import annotations

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


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


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics span all processes.

    In one process it equals ``nn.BatchNorm1d`` and its kin. In several it
    reduces the sums by a differentiable all-reduce on any backend. On GPUs
    ``sync_bn = 'torch'`` replaces it by ``nn.SyncBatchNorm``, which does not
    support CPU tensors.
    """

    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor
    momentum: float

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of (B, D) or (B, D, ...)."""
        if not self.training or get_world_size() == 1:
            return super().forward(x)
        rows = x.to(self.running_mean.dtype).movedim(1, -1)  # (B, ..., D)
        mean, var, count = column_moments(rows.flatten(0, -2))
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = var * count / (count - 1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = (var + self.eps).rsqrt()
        if self.affine:
            scale = self.weight * scale
        rows = (rows - mean) * scale
        if self.affine:
            rows = rows + self.bias
        return rows.movedim(-1, 1).to(x.dtype)


def spanning(model: nn.Module) -> nn.Module:
    """Return a model whose BatchNorm spans all processes.

    Parameters and buffers stay the same tensors. A BatchNorm without running
    statistics, or with their plain mean, stays as it is.

    Args:
        model (nn.Module): is changed in place, unless it is a BatchNorm.
    """
    kept = isinstance(model, (GlobalBatchNorm, nn.SyncBatchNorm))
    if isinstance(model, _BatchNorm) and not kept:
        if not model.track_running_stats or model.momentum is None:
            return model
        norm = GlobalBatchNorm(
            model.num_features, model.eps, model.momentum, model.affine
        )
        norm._parameters.update(model._parameters)
        norm._buffers.update(model._buffers)
        return norm.train(model.training)
    for name, part in model.named_children():
        setattr(model, name, spanning(part))
    return model
