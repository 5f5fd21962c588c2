"""State that the outputs of each step change: centres and queues.

A batch is compared with the state of before. ``observe`` notes the batch, and
``move`` follows at the start of the next optimizer step, however many batches
a step accumulates. ``forget`` drops the batches of a skipped step. All of
it is in the checkpoint, and the same in all processes.

Shape key: B batch, P processes, K outputs, D channels, Q queued keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, all_reduce
from torch import Tensor, nn


class Moving(nn.Module):
    """Base of what moves once per optimizer step."""

    def move(self) -> None:
        """Follow what was observed, and forget it."""
        raise NotImplementedError

    def forget(self) -> None:
        """Forget what was observed."""
        raise NotImplementedError


class Centre(Moving):
    """The moving mean of a teacher's outputs, subtracted from them.

    Args:
        dims (int): K.
        momentum (float): weight of the old centre. Defaults to 0.9.
    """

    value: Tensor
    seen: Tensor
    count: Tensor

    def __init__(self, dims: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer('value', torch.zeros(dims))
        self.register_buffer('seen', torch.zeros(dims))
        self.register_buffer('count', torch.zeros(()))

    @torch.no_grad()
    def observe(self, outputs: Tensor) -> None:
        """Note outputs (..., K) of all processes."""
        mean = outputs.flatten(0, -2).mean(dim=0).to(self.seen.dtype)
        all_reduce(mean, op='mean')
        self.seen += mean
        self.count += 1

    @torch.no_grad()
    def move(self) -> None:
        """Move the centre to the mean of what was observed."""
        # No value is read on the host, which would wait for the device.
        mean = self.seen / self.count.clamp(min=1)
        share = (1 - self.momentum) * self.count.clamp(max=1)
        self.value += share * (mean - self.value)
        self.forget()

    @torch.no_grad()
    def forget(self) -> None:
        """Forget what was observed."""
        self.seen.zero_()
        self.count.zero_()


class KeyQueue(Moving):
    """The newest Q keys, which serve as negatives.

    Args:
        dims (int): D.
        length (int): Q.
    """

    value: Tensor
    seen: Tensor
    place: Tensor

    def __init__(self, dims: int, length: int) -> None:
        super().__init__()
        keys = F.normalize(torch.randn(dims, length), dim=0)
        self.register_buffer('value', keys)
        self.register_buffer('seen', keys.clone())
        self.register_buffer('place', torch.zeros(2, dtype=torch.long))

    @torch.no_grad()
    def observe(self, keys: Tensor) -> None:
        """Note keys (B, D) of length 1 of all processes.

        The oldest keys are replaced. If there are more than Q keys, the last
        Q count.
        """
        keys = torch.cat(all_gather(keys))  # (P * B, D)
        length = self.seen.shape[1]
        keys = keys[-length:].T.to(self.seen.dtype)
        order = torch.arange(keys.shape[1], device=keys.device)
        self.seen[:, (self.place[1] + order) % length] = keys
        self.place[1] = (self.place[1] + keys.shape[1]) % length

    @torch.no_grad()
    def move(self) -> None:
        """Take the keys that were observed into the queue."""
        self.value.copy_(self.seen)
        self.place[0] = self.place[1]

    @torch.no_grad()
    def forget(self) -> None:
        """Forget the keys that were observed."""
        self.seen.copy_(self.value)
        self.place[1] = self.place[0]
