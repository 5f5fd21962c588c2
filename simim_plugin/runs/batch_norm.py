"""BatchNorm whose statistics span all processes, on any device.

Shape key: B batch, M rows, D channels.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.distributed as dist
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

    # Filled on the device: a copy from the CPU would wait for it.
    count = total(values.new_full((), len(values)))
    mean = total(values.sum(0)) / count
    var = total((values - mean).square().sum(0)) / count
    return mean, var, count


class NormalizeTogether(torch.autograd.Function):
    """Normalise (M, D) by the statistics of all processes.

    One collective in each direction, of 2 D numbers and one more in the
    forward pass; besides its input it keeps no tensor (M, D). The number of
    rows may differ between processes, and no process waits for its device.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the result, and mean, variance and number of all rows."""
        if len(values):
            var, mean = torch.var_mean(values, dim=0, correction=0)
        else:  # no rows, which count for nothing
            var = mean = values.new_zeros(values.shape[1])
        own = torch.cat([mean, var, values.new_full((1,), len(values))])
        every = [torch.empty_like(own) for _ in range(get_world_size())]
        dist.all_gather(every, own)
        means, variances, counts = torch.stack(every).split(
            [len(mean), len(mean), 1], dim=1
        )
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        inverse = (var + eps).rsqrt()
        ctx.save_for_backward(values, weight, mean, inverse, count)
        ctx.mark_non_differentiable(mean, var, count)
        scale = weight * inverse
        result = torch.addcmul(bias - mean * scale, values, scale)
        return result, mean, var, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of values, weight and bias.

        Those of weight and bias are of this process alone.
        """
        gradient = gradients[0]
        values, weight, mean, inverse, count = ctx.saved_tensors
        normal = (values - mean).mul_(inverse)
        own = torch.stack([gradient.sum(0), (gradient * normal).sum(0)])
        sums = own.clone()
        dist.all_reduce(sums)
        shift, slope = sums / count
        of_values = normal.mul_(-slope).add_(gradient).sub_(shift)
        return of_values.mul_(weight * inverse), own[1], own[0], None


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics span all processes.

    In one process it equals ``nn.BatchNorm1d`` and its kin. In several it
    works on any backend and device: ``nn.SyncBatchNorm`` takes no CPU
    tensors, and waits for the GPU in every layer.
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
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if not self.affine:
            weight = torch.ones_like(self.running_mean)
            bias = torch.zeros_like(self.running_mean)
        values, mean, var, count = NormalizeTogether.apply(
            rows.flatten(0, -2), weight, bias, self.eps
        )
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = var * count / (count - 1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return values.view(rows.shape).movedim(-1, 1).to(x.dtype)


class SyncedBatchNorm(GlobalBatchNorm):
    """A BatchNorm that spans all processes because ``sync_bn`` is set."""


def spanning(model: nn.Module) -> nn.Module:
    """Return a model whose BatchNorm spans all processes.

    Parameters and buffers stay the same tensors. A BatchNorm without running
    statistics, or with their plain mean, stays as it is.

    Args:
        model (nn.Module): is changed in place, unless it is a BatchNorm.
    """
    if _of_one_process(model):
        norm = SyncedBatchNorm(
            model.num_features, model.eps, model.momentum, model.affine
        )
        # The same dictionaries: a momentum copy finds its parameters in them.
        norm._parameters = model._parameters
        norm._buffers = model._buffers
        return norm.train(model.training)
    for name, part in model.named_children():
        setattr(model, name, spanning(part))
    return model


def depends_on_sync_bn(model: nn.Module) -> bool:
    """Return whether ``sync_bn`` changes a model, or has changed it."""
    return any(
        isinstance(part, SyncedBatchNorm) or _of_one_process(part)
        for part in model.modules()
    )


def _of_one_process(part: Any) -> TypeGuard[_BatchNorm]:
    """Return whether a part is a BatchNorm that :func:`spanning` replaces."""
    return (
        isinstance(part, _BatchNorm)
        and not isinstance(part, (GlobalBatchNorm, nn.SyncBatchNorm))
        and part.track_running_stats
        and part.momentum is not None
    )
