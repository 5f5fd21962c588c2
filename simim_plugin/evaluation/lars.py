"""LARS for linear probing: the learning rate acts after the momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmpretrain.registry import OPTIMIZERS
from torch.optim import SGD


@OPTIMIZERS.register_module()
class ProbeLARS(SGD):
    """SGD with momentum on gradients scaled by a trust ratio.

    For a parameter p with gradient g and momentum buffer v::

        v <- momentum * v + g * trust * |p| / |g|
        p <- p - lr * v

    One-dimensional parameters, and those with a norm of 0, use g unscaled.
    MMPretrain's ``LARS`` scales all parameters and multiplies v by the lr,
    so during warm-up old gradients keep their smaller lr.

    Args:
        params (Iterable): parameters or groups of them.
        lr (float): learning rate.
        momentum (float): of the buffer. Defaults to 0.9.
        trust (float): length of v over that of p, for one gradient.
            Defaults to 0.001.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum)
        self.trust = trust

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Scale the gradients in place, then step as SGD does.

        Args:
            closure (Callable, optional): computes loss and gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None and parameter.ndim > 1:
                    size = parameter.norm()
                    slope = parameter.grad.norm()
                    ratio = self.trust * size / slope
                    usable = (size > 0) & (slope > 0)
                    parameter.grad.mul_(torch.where(usable, ratio, 1.0))
        super().step()
        return loss
