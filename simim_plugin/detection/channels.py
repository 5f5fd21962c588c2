"""Images of any number of channels in MMDetection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.image.geometric import rescale_size
from mmdet.datasets.transforms import Resize
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS, TRANSFORMS

from ..datasets.paired_views import resize
from ..models.preprocessor import check_statistics, set_statistics


@TRANSFORMS.register_module()
class AnyChannelResize(Resize):
    """MMDetection's ``Resize`` for any number of channels, bicubic.

    It is antialiased. Pillow knows no other numbers of channels than 1, 3
    and 4. Arguments are those of :class:`mmdet.datasets.transforms.Resize`
    but ``backend`` and ``interpolation``.
    """

    def __init__(
        self,
        scale: int | tuple[int, int] | None = None,
        scale_factor: float | tuple[float, float] | None = None,
        keep_ratio: bool = False,
        clip_object_border: bool = True,
    ) -> None:
        super().__init__(scale, scale_factor, keep_ratio, clip_object_border)

    def _resize_img(self, results: dict) -> None:
        """Resize the image; called by the base class."""
        image = results['img']
        height, width = image.shape[:2]
        columns, rows = results['scale']
        if self.keep_ratio:
            columns, rows = rescale_size((width, height), results['scale'])
        results['img'] = resize(np.ascontiguousarray(image), (rows, columns))
        results['img_shape'] = (rows, columns)
        results['scale_factor'] = (columns / width, rows / height)
        results['keep_ratio'] = self.keep_ratio


@MODELS.register_module()
class AnyChannelDetPreprocessor(DetDataPreprocessor):
    """MMDetection's preprocessor for any number of channels.

    Args:
        mean (Sequence[float]): of each channel, in the order of the file.
        std (Sequence[float]): of each channel.
        **kwargs: see :class:`mmdet.models.DetDataPreprocessor`.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], **kwargs: Any
    ) -> None:
        check_statistics(self, mean, std)
        # The base class accepts statistics of 1 or 3 channels only.
        super().__init__(mean=mean[:1], std=std[:1], **kwargs)
        set_statistics(self, mean, std)
