"""A copy of modules that follows them by a moving average."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from mmcv.cnn.bricks.drop import DropPath
from mmpretrain.models.utils import MultiheadAttention
from torch import nn


class MomentumCopy(nn.ModuleDict):
    """A momentum copy: the target of SiameseIM, the teacher of its rivals.

    It has no gradient, no stochastic depth and no dropout.

    Args:
        online (Mapping[str, nn.Module]): the modules that it copies and
            follows.
    """

    def __init__(self, online: Mapping[str, nn.Module]) -> None:
        super().__init__({k: deepcopy(part) for k, part in online.items()})
        self.requires_grad_(False)
        stop_drops(self)
        # A step finds the parameters by their places, listed once: the
        # tensors there change when a model moves, loads or is sharded.
        self._places = [
            [*_places(parts)] for parts in (self.values(), online.values())
        ]

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move every parameter towards its online counterpart.

        Buffers, such as BatchNorm's statistics, do not move: each branch has
        its own.

        Args:
            momentum (float): weight of the old parameters, 0 to 1.
        """
        old, new = (
            [parameters[name] for parameters, name in places]
            for places in self._places
        )
        torch._foreach_lerp_(old, new, 1 - momentum)


def _places(
    parts: Iterable[nn.Module],
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield where modules keep each of their parameters."""
    seen = set()
    for part in parts:
        for module in part.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter not in seen:
                    seen.add(parameter)
                    yield module._parameters, name


def stop_drops(parts: nn.Module) -> None:
    """Turn stochastic depth and dropout off, in training too."""
    for part in parts.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0
        elif isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, MultiheadAttention):
            part.attn_drop = 0.0
