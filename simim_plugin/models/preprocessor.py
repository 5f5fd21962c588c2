"""Normalise pairs of views on the device."""

from __future__ import annotations

from typing import Any

from mmengine.structures import BaseDataElement
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS


@MODELS.register_module()
class PairDataPreprocessor(SelfSupDataPreprocessor):
    """MMPretrain's preprocessor, with the data samples left on the CPU.

    The algorithm collates masks and boxes on the CPU and moves them once,
    which avoids a copy per image and field.
    """

    def cast_data(self, data: Any) -> Any:
        """Move tensors to the device, but not data samples."""
        if isinstance(data, BaseDataElement):
            return data
        return super().cast_data(data)
