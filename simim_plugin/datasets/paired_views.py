"""Cut two views out of one image and record their crops.

Each view has its own random resized crop, flip and colours
(docs/method.md). The released code flips the image, then crops it. A crop of
a flipped image is a flipped crop of the image: flipping the small view costs
less, and the box is in pixels of the un-flipped image.

Shape key: H x W the image, h x w a view, in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmpretrain.registry import TRANSFORMS
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from ..errors import SimimError
from ..geometry import PairGeometry, View, pair
from .colour_draws import ColourDraws

Transform = dict | Callable[[dict], dict]


@TRANSFORMS.register_module()
class PairedViews(BaseTransform):
    """Cut the online and the target view out of one decoded image.

    Each view is a random resized crop (bicubic, antialiased as in Pillow),
    flipped left-right with probability 0.5, then passed through its colour
    transforms. This package's colour transforms expect RGB.

    **Required Keys:** ``img`` (H, W, N) uint8

    **Modified Keys:** ``img``, [online, target], each (h, w, N) uint8;
    ``img_shape``, (h, w)

    **Added Keys:** ``geometry``, a
    :class:`~simim_plugin.geometry.PairGeometry`; pack it with
    ``PackInputs(algorithm_keys=['geometry'])``

    Args:
        size (int | tuple[int, int]): height and width of both views.
        crop_scale (tuple[float, float]): range of the crop's area, as a
            share of the image's. Defaults to (0.08, 1), as in the released
            configuration.
        aspect_ratio (tuple[float, float]): range of the crop's width /
            height, drawn log-uniformly. Defaults to (3/4, 4/3).
        online (Sequence[dict | Callable]): colour transforms of the online
            view, from and to ``dict(img=...)``. Defaults to none.
        target (Sequence[dict | Callable]): colour transforms of the target
            view. Defaults to none.
        defer (bool): only draw the colours, into ``colours``, (2, 11); the
            data preprocessor applies them. Its ``colours=True`` sets this.
            Defaults to False.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        crop_scale: tuple[float, float] = (0.08, 1.0),
        aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        online: Sequence[Transform] = (),
        target: Sequence[Transform] = (),
        defer: bool = False,
    ) -> None:
        self.size = self.target_size = pair(size)
        self.crop_scale = list(crop_scale)
        self.aspect_ratio = list(aspect_ratio)
        self.online: Any = _stages(online, defer)
        self.target: Any = _stages(target, defer)
        self.defer = defer

    def transform(self, results: dict) -> dict:
        """Replace ``results['img']`` by the two views; add their geometry.

        Raises:
            SimimError: if the image is not (H, W, N) uint8.
        """
        image = results['img']
        if image.dtype != np.uint8 or image.ndim != 3:
            raise SimimError(
                'PairedViews needs images of shape (H, W, N) and type uint8, '
                f'but got {image.shape} and {image.dtype}: load them with '
                '`LoadRGBImage`, and leave normalisation to the data '
                'preprocessor.'
            )
        views, results['geometry'] = self.draw(image)
        results['img'] = [view['img'] for view in views]
        if self.defer:
            results['colours'] = np.stack([view['colours'] for view in views])
        results['img_shape'] = self.size
        return results

    def draw(self, image: np.ndarray) -> tuple[list[dict], PairGeometry]:
        """Draw both views of an image (H, W, N); ablations replace this.

        Returns:
            tuple: the online and the target view, each a dictionary of
            ``img``, (h, w, N), and with ``defer`` of ``colours``, (11,); and
            their crops.
        """
        online, online_crop = self._cut(image, self.size)
        target, target_crop = self._cut(image, self.target_size)
        views = [self.online(dict(img=online)), self.target(dict(img=target))]
        return views, PairGeometry(online_crop, target_crop)

    def of_size(self, size: tuple[int, int]) -> PairedViews:
        """Return the same transform with smaller or larger views.

        A colour transform with a method ``at_scale(scale)``, as the blur
        has, is replaced by what it returns for the scale of the views.

        Args:
            size (tuple[int, int]): height and width of the online view in
                pixels. A target view of another size keeps its share.
        """
        other = copy(self)
        other.size = size
        height, width = (
            round(target * new / old)
            for target, new, old in zip(
                self.target_size, size, self.size, strict=True
            )
        )
        other.target_size = (height, width)
        scale = (math.prod(size) / math.prod(self.size)) ** 0.5
        other.online = _at_scale(self.online, scale)
        other.target = _at_scale(self.target, scale)
        return other

    def _cut(
        self, image: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, View]:
        """Draw a view, (h, w, 3), and its crop."""
        return cut(image, size, self.crop_scale, self.aspect_ratio)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(size={self.size}, '
            f'crop_scale={self.crop_scale}, '
            f'aspect_ratio={self.aspect_ratio}, '
            f'online={self.online}, target={self.target})'
        )


def cut(
    image: np.ndarray,
    size: tuple[int, int],
    crop_scale: Sequence[float],
    aspect_ratio: Sequence[float],
) -> tuple[np.ndarray, View]:
    """Draw a crop and a flip; return the view, (h, w, C), and its crop.

    Args:
        image (np.ndarray): (H, W, C) uint8.
        size (tuple[int, int]): h and w.
        crop_scale (Sequence[float]): range of the crop's area, as a share.
        aspect_ratio (Sequence[float]): range of its width / height.
    """
    shape = torch.empty(image.shape[:2], device='meta')  # no memory
    top, left, height, width = RandomResizedCrop.get_params(
        shape, list(crop_scale), list(aspect_ratio)
    )
    flip = np.random.rand() < 0.5
    # The copy resizes faster than a window into the image, and keeps a view
    # that needs no resize apart from the image's memory.
    crop = image[top : top + height, left : left + width].copy()
    view = resize(crop, size)
    if flip:
        view = cv2.flip(view, 1)
    return view, View.of((top, left, height, width), flip)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, C) uint8 to ``size``: bicubic, antialiased as in Pillow.

    torchvision's resize of uint8 takes a quarter of Pillow's time; OpenCV's
    bicubic resize has no antialiasing.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    pixels = F.resize(
        pixels, list(size), InterpolationMode.BICUBIC, antialias=True
    )
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _stages(transforms: Sequence[Transform], defer: bool) -> Any:
    """Build the colour transforms of a view, or what draws for them."""
    built = compose(transforms)
    return ColourDraws(built) if defer else built


def _at_scale(stages: Any, scale: float) -> Any:
    """Return colour transforms for views of another side."""
    other = copy(stages)
    other.transforms = [
        stage.at_scale(scale) if hasattr(stage, 'at_scale') else stage
        for stage in stages.transforms
    ]
    return other


def compose(transforms: Sequence[Transform]) -> Compose:
    """Build transforms that are given as dictionaries or callables."""
    return Compose(
        [
            TRANSFORMS.build(transform)
            if isinstance(transform, dict)
            else transform
            for transform in transforms
        ]
    )
