"""Normalise pairs of views on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from torch import nn


@MODELS.register_module()
class PairDataPreprocessor(SelfSupDataPreprocessor):
    """MMPretrain's preprocessor, with the data samples left on the CPU.

    It takes ``mean`` and ``std`` of any number of channels. The algorithm
    moves masks and boxes in two copies, instead of some per image. Views in
    pinned memory move while the CPU goes on (``non_blocking``).
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        non_blocking: bool = True,
        **kwargs: Any,
    ) -> None:
        # which takes statistics of 1 or 3 channels
        super().__init__(non_blocking=non_blocking, **kwargs)
        self._enable_normalize = mean is not None
        if mean is not None and std is not None:
            set_statistics(self, mean, std)

    def cast_data(self, data: Any) -> Any:
        """Move tensors to the device, but not data samples."""
        if isinstance(data, BaseDataElement):
            return data
        return super().cast_data(data)


def set_statistics(
    preprocessor: nn.Module, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Give a preprocessor statistics of any number of channels.

    Those of the libraries take 1 or 3.
    """
    for name, values in (('mean', mean), ('std', std)):
        tensor = torch.tensor(values).view(-1, 1, 1)
        preprocessor.register_buffer(name, tensor, persistent=False)
