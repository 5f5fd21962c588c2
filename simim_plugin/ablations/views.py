"""Views of the ablations.

Shape key: H rows, W columns of the image; h x w of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmpretrain.registry import TRANSFORMS

from ..datasets.paired_views import PairedViews, Transform, pair
from ..geometry import PairGeometry


@TRANSFORMS.register_module()
class SameView(PairedViews):
    """Use one view in both roles: the same crop, flip and colours.

    The keys are those of :class:`PairedViews`.

    Args:
        size, crop_scale, aspect_ratio, defer: see :class:`PairedViews`.
        colour (Sequence[dict | Callable]): transforms of the view, from and
            to ``dict(img=...)``. Defaults to none.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        crop_scale: tuple[float, float] = (0.08, 1.0),
        aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        colour: Sequence[Transform] = (),
        defer: bool = False,
    ) -> None:
        super().__init__(
            size, crop_scale, aspect_ratio, online=colour, defer=defer
        )

    def draw(self, image: np.ndarray) -> tuple[list[dict], PairGeometry]:
        """Draw one view of an image (H, W, N), and return it twice."""
        pixels, crop = self._cut(image, self.size)
        view = self.online(dict(img=pixels))
        return [view, view], PairGeometry(crop, crop)


@TRANSFORMS.register_module()
class SmallTargetViews(PairedViews):
    """Cut two views, the target view with fewer pixels.

    The keys are those of :class:`PairedViews`.

    Args:
        target_size (int | tuple[int, int]): height and width of the target
            view, in pixels.
        **kwargs: see :class:`PairedViews`.
    """

    def __init__(
        self, target_size: int | tuple[int, int], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.target_size = pair(target_size)

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, target_size={self.target_size})'
