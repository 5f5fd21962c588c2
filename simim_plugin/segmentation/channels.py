"""Images of any number of channels in MMSegmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS

from ..models.preprocessor import check_statistics, set_statistics


@MODELS.register_module()
class AnyChannelSegPreprocessor(SegDataPreProcessor):
    """MMSegmentation's preprocessor for any number of channels.

    Args:
        mean (Sequence[float]): of each channel, in the order of the file.
        std (Sequence[float]): of each channel.
        **kwargs: see :class:`mmseg.models.SegDataPreProcessor`.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], **kwargs: Any
    ) -> None:
        check_statistics(self, mean, std)
        # The base class accepts statistics of 1 or 3 channels only.
        super().__init__(mean=mean[:1], std=std[:1], **kwargs)
        set_statistics(self, mean, std)
