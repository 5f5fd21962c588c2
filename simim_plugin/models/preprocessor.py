"""Normalise pairs of views on the device."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from numpy.typing import NDArray
from torch import nn

from ..datasets.collating import PairSamples, drawn_colours
from ..errors import SimimError
from .colours import apply_colours


@MODELS.register_module()
class PairDataPreprocessor(SelfSupDataPreprocessor):
    """MMPretrain's preprocessor, with the data samples left on the CPU.

    It takes ``mean`` and ``std`` of any number of channels. The algorithm
    moves masks and boxes in two copies, instead of some per image. Views in
    pinned memory move while the CPU goes on (``non_blocking``).

    Args:
        mean (Sequence[float], optional): of each channel. Defaults to none.
        std (Sequence[float], optional): likewise.
        non_blocking (bool): see above. Defaults to True.
        colours (bool): the training loop leaves jitter, grey, blur and
            solarising of ``PairedViews`` to this module, which applies them
            on the device. Each image has the draws of its own seed, the same
            as on the CPU. Worth it on a GPU whose loaders limit it. Defaults
            to False.
        **kwargs: see :class:`mmpretrain.models.SelfSupDataPreprocessor`.

    Raises:
        SimimError: unless both of ``mean`` and ``std`` are given, with as
            many values that normalise, or neither.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        non_blocking: bool = True,
        colours: bool = False,
        **kwargs: Any,
    ) -> None:
        given = mean is not None or std is not None
        if given:
            check_statistics(self, mean, std)
        # The base class accepts statistics of 1 or 3 channels only.
        super().__init__(non_blocking=non_blocking, **kwargs)
        self._enable_normalize = given
        if mean is not None and std is not None:
            set_statistics(self, mean, std)
        self.colours = colours

    def forward(self, data: dict, training: bool = False) -> dict:
        """Apply the deferred colours, if there are any, and normalise.

        Args:
            data (dict): of a loader: ``inputs``, [online, target], each
                (B, N, H, W) uint8, and ``data_samples``.
            training (bool): not used. Defaults to False.
        """
        draws = colours_of(data.get('data_samples'))
        if draws is not None:
            views = [
                apply_colours(self.cast_data(view), draws[:, number])
                for number, view in enumerate(data['inputs'])
            ]
            data = dict(data, inputs=views)
        return super().forward(data, training)

    def cast_data(self, data: Any) -> Any:
        """Move tensors to the device, but not data samples."""
        if isinstance(data, BaseDataElement):
            return data
        return super().cast_data(data)


def colours_of(samples: Any) -> NDArray[np.float32] | None:
    """Return the draws (B, 2, 11) of colours left to the device, or None."""
    if isinstance(samples, PairSamples):
        return None if samples.colours is None else samples.colours.numpy()
    return drawn_colours(samples or [])


def check_statistics(
    preprocessor: nn.Module,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> None:
    """Refuse statistics that normalise nothing.

    Raises:
        SimimError: naming both, unless they have as many channels, and all
            values are finite and those of the std above 0.
    """
    if mean is None or std is None or len(mean) != len(std):
        raise SimimError(
            f'{type(preprocessor).__name__} has mean={mean} and std={std}; '
            'set both, with one value for each channel, or neither.'
        )
    if not all(map(isfinite, (*mean, *std))) or min(std, default=1) <= 0:
        raise SimimError(
            f'{type(preprocessor).__name__} has mean={mean} and std={std}; '
            'set finite values, and those of std above 0.'
        )


def set_statistics(
    preprocessor: nn.Module, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Give a preprocessor statistics of any number of channels.

    Those of the libraries take 1 or 3.
    """
    for name, values in (('mean', mean), ('std', std)):
        tensor = torch.tensor(values).view(-1, 1, 1)
        preprocessor.register_buffer(name, tensor, persistent=False)
