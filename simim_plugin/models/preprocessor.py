"""Normalises pairs of views on the device."""

from __future__ import annotations

from typing import Any

from mmengine.structures import BaseDataElement
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS


@MODELS.register_module()
class PairDataPreprocessor(SelfSupDataPreprocessor):
    """MMPretrain's preprocessor, leaving the data samples on the CPU.

    The algorithm collates masks and boxes there and moves them at once,
    instead of one copy per image and field.
    """

    def cast_data(self, data: Any) -> Any:
        """Move tensors, but no data sample, to the device."""
        if isinstance(data, BaseDataElement):
            return data
        return super().cast_data(data)
