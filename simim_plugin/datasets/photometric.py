"""Colour jitter, greyscale and blur of RGB uint8 images, through OpenCV.

The random draws are those of MMPretrain and torchvision. On photographs the
mean difference to Pillow's pixels is about one grey level at most, and 0.03
for brightness, contrast and saturation. MMCV's OpenCV transforms convert to
grey with the weights of BGR; these expect RGB.

Shape key: H rows, W columns.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.datasets.transforms.auto_augment import GaussianBlur
from mmpretrain.datasets.transforms.processing import ColorJitter
from mmpretrain.registry import TRANSFORMS

from ..errors import SimimError

Image = np.ndarray
"""(H, W, 3) uint8, RGB."""

_LEVELS = np.arange(256, dtype=np.float32)


def adjust_brightness(image: Image, factor: float) -> Image:
    """Scale all levels by ``factor``, at least 0."""
    return _blend_levels(image, 0.0, factor)


def adjust_contrast(image: Image, factor: float) -> Image:
    """Scale the distance to the mean grey by ``factor``, at least 0."""
    if image.ndim == 3 and image.shape[2] == 3:
        image_mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    else:
        image_mean = image.mean()
    return _blend_levels(image, int(image_mean + 0.5), factor)


def adjust_saturation(image: Image, factor: float) -> Image:
    """Scale each pixel's distance to its grey by ``factor``, at least 0."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    # Pillow truncates, OpenCV rounds: subtract almost a half. A full half
    # would change grey pixels.
    return cv2.addWeighted(image, factor, grey, 1 - factor, -0.49)


def adjust_hue(image: Image, turn: float) -> Image:
    """Rotate the hue by ``turn`` full circles, -0.5 to 0.5."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # torchvision truncates too; the hue wraps around at 256.
    hsv[..., 0] += np.uint8(int(turn * 256) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, hsv)


def _check_rgb(image: Image, what: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3:
        raise SimimError(
            f'{what} need images of three channels, not of shape '
            f'{image.shape}; leave them out of the views (docs/images.md).'
        )


def _blend_levels(image: Image, anchor: float, factor: float) -> Image:
    levels = anchor + np.float32(factor) * (_LEVELS - anchor)
    return cv2.LUT(image, levels.clip(0, 255).astype(np.uint8))


@TRANSFORMS.register_module()
class FastColorJitter(ColorJitter):
    """MMPretrain's ``ColorJitter`` on RGB images, with a probability.

    **Required Keys:** ``img`` (H, W, 3) uint8 RGB; **Modified Keys:** ``img``

    Args:
        prob (float): probability of the jitter. Defaults to 1.
        **kwargs: ``brightness``, ``contrast``, ``saturation`` and ``hue`` of
            MMPretrain's ``ColorJitter``. Factors are uniform in 1 -/+ the
            value, the hue in -/+ the value in full circles; the order is
            random.
    """

    def __init__(self, prob: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prob = prob
        self.adjust = (
            adjust_brightness,
            adjust_contrast,
            adjust_saturation,
            adjust_hue,
        )

    def transform(self, results: dict) -> dict:
        """Jitter ``results['img']``.

        Raises:
            SimimError: if saturation or hue are to change other images than
                RGB.
        """
        if self.saturation is not None or self.hue is not None:
            _check_rgb(results['img'], 'saturation and hue of FastColorJitter')
        drawn = self.draw()
        if drawn is None:
            return results
        order, factors = drawn
        for index in order:
            if factors[index] is not None:
                results['img'] = self.adjust[index](
                    results['img'], factors[index]
                )
        return results

    def draw(self) -> tuple[Any, list[float | None]] | None:
        """Draw the order of the four, and their factors, or None."""
        if np.random.rand() >= self.prob:
            return None
        order, *factors = self._rand_params()
        return order, factors

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, prob={self.prob})'


@TRANSFORMS.register_module()
class FastGrayscale(BaseTransform):
    """Convert an RGB image to grey in three channels.

    MMCV's ``RandomGrayscale`` computes in float64 and truncates.

    **Required Keys:** ``img`` (H, W, 3) uint8 RGB; **Modified Keys:** ``img``

    Args:
        prob (float): probability of the conversion.
    """

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def transform(self, results: dict) -> dict:
        """Convert ``results['img']`` to grey.

        Raises:
            SimimError: if it is not RGB.
        """
        _check_rgb(results['img'], 'FastGrayscale')
        if self.draw():
            grey = cv2.cvtColor(results['img'], cv2.COLOR_RGB2GRAY)
            results['img'] = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        return results

    def draw(self) -> bool:
        """Draw whether to convert."""
        return bool(np.random.rand() < self.prob)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'


def blur(image: Image, radius: float) -> Image:
    """Blur with Pillow's Gaussian of standard deviation ``radius``, in pixels.

    Pillow approximates the Gaussian by three box filters. OpenCV samples the
    curve at the pixels, which blurs far less at radii below 0.5.
    """
    kernel = three_boxes(radius)
    return cv2.sepFilter2D(
        image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE
    )


def three_boxes(radius: float) -> np.ndarray:
    """Return the 1-D kernel of three boxes of variance ``radius ** 2 / 3``.

    Its length is odd. As in Pillow, a box is a row of ones with a fraction at
    each end.
    """
    variance = radius**2 / 3
    ones = int((np.sqrt(12 * variance + 1) - 1) / 2)  # on each side of 0
    squares = ones * (ones + 1) * (2 * ones + 1) / 3
    edge = (variance * (2 * ones + 1) - squares) / (
        2 * ((ones + 1) ** 2 - variance)
    )
    box = np.array([edge, *[1.0] * (2 * ones + 1), edge])
    box /= box.sum()
    return np.convolve(np.convolve(box, box), box).astype(np.float32)


@TRANSFORMS.register_module()
class FastGaussianBlur(GaussianBlur):
    """MMPretrain's ``GaussianBlur``, which calls Pillow, through OpenCV.

    The arguments are the same. ``magnitude_range=(0.1, 2.0),
    magnitude_std='inf'`` draws uniform standard deviations in pixels.

    **Required Keys:** ``img`` (H, W, 3) uint8; **Modified Keys:** ``img``
    """

    def transform(self, results: dict) -> dict:
        """Blur ``results['img']``."""
        radius = self.draw()
        if radius is not None:
            results['img'] = blur(results['img'], radius)
        return results

    def at_scale(self, scale: float) -> FastGaussianBlur:
        """Return the same blur for views whose side is ``scale`` times."""
        other = copy(self)
        if self.radius is None:
            other.magnitude_range = tuple(
                scale * end for end in self.magnitude_range
            )
        else:
            other.radius = scale * self.radius
        return other

    def draw(self) -> float | None:
        """Draw the standard deviation in pixels, or None."""
        if self.random_disable():
            return None
        return self.random_magnitude() if self.radius is None else self.radius
