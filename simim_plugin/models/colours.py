"""Apply drawn colours to a batch of views, on any device.

The steps and their roundings are those of
:mod:`simim_plugin.datasets.photometric`.

Shape key: B batch, H rows, W columns, P images of a part of the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.colour_draws import (
    FACTORS,
    GREY,
    NO_COLOURS,
    ORDER,
    RADIUS,
    THRESHOLD,
)
from ..datasets.photometric import three_boxes
from ..errors import SimimError
from ..tensors import to_device


def apply_colours(views: Tensor, draws: NDArray[np.float32]) -> Tensor:
    """Colour each view as its draws say.

    Args:
        views (Tensor): (B, 3, H, W), levels 0 to 255.
        draws (NDArray): (B, 11), of
            :class:`simim_plugin.datasets.colour_draws.ColourDraws`.

    Returns:
        Tensor: (B, 3, H, W) float32, whole levels 0 to 255.

    Raises:
        SimimError: for images of other channels than RGB.
    """
    views = views.float()
    if (draws == NO_COLOURS).all():
        return views
    if views.shape[1] != 3:
        raise SimimError(
            'colours=True of PairDataPreprocessor needs images of three '
            f'channels, not {views.shape[1]}; leave the colour transforms out '
            'of the views (docs/images.md).'
        )
    for place in range(4):
        which = draws[:, ORDER][:, place]
        for number, adjust in enumerate(_ADJUST):
            factors = draws[:, FACTORS][:, number]
            views = _of_some(views, which == number, adjust, factors)
    views = _of_some(views, draws[:, GREY] > 0, _to_grey, draws[:, GREY])
    views = _of_some(views, draws[:, RADIUS] > 0, _blurred, draws[:, RADIUS])
    return _of_some(
        views, draws[:, THRESHOLD] < 256, _solarized, draws[:, THRESHOLD]
    )


def _of_some(
    views: Tensor,
    chosen: NDArray[np.bool_],
    change: Callable[[Tensor, NDArray[np.float32]], Tensor],
    values: NDArray[np.float32],
) -> Tensor:
    """Change some views of a batch, each by its own value."""
    if not chosen.any():
        return views
    index = _on_device(np.flatnonzero(chosen), views)
    changed = change(views[index], values[chosen])
    return views.index_copy(0, index, changed)


def _on_device(values: NDArray, like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(values), like.device)


def _factors(values: NDArray, like: Tensor) -> Tensor:
    """Return (P, 1, 1, 1), one factor for each view."""
    return _on_device(values.astype(np.float32), like)[:, None, None, None]


def _grey(views: Tensor) -> Tensor:
    """Return the grey levels (P, 1, H, W) of RGB, rounded."""
    red, green, blue = views.unbind(1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    return (grey + 0.5).floor()[:, None]


def _brightness(views: Tensor, values: NDArray) -> Tensor:
    return (views * _factors(values, views)).clamp(0, 255).floor()


def _contrast(views: Tensor, values: NDArray) -> Tensor:
    mean = _grey(views).mean(dim=(1, 2, 3), keepdim=True)
    anchor = (mean + 0.5).floor()
    scaled = anchor + _factors(values, views) * (views - anchor)
    return scaled.clamp(0, 255).floor()


def _saturation(views: Tensor, values: NDArray) -> Tensor:
    factor = _factors(values, views)
    mixed = torch.lerp(_grey(views), views, factor) - 0.49
    return mixed.round().clamp(0, 255)


def _hue(views: Tensor, values: NDArray) -> Tensor:
    """Rotate the hue, which has 256 levels as in OpenCV and Pillow."""
    value, _ = views.max(dim=1)  # (P, H, W)
    spread = value - views.min(dim=1).values
    red, green, blue = views.unbind(1)
    divisor = spread.clamp(min=1)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(
            value == green,
            2 + (blue - red) / divisor,
            4 + (red - green) / divisor,
        ),
    )  # (P, H, W), -1 to 5
    hue = (sector * (256 / 6)).round()
    saturation = (255 * spread / value.clamp(min=1)).round() / 255
    turns = np.trunc(values * 256)
    hue = (hue + _factors(turns, views)[:, 0]).remainder(256) * (6 / 256)
    # A channel is the value, less its share of the spread.
    shift = _on_device(np.array([5.0, 3.0, 1.0], np.float32), views)
    phase = (hue[:, None] + shift[:, None, None]).remainder(6)
    share = torch.minimum(phase, 4 - phase).clamp(0, 1)
    value, saturation = value[:, None], saturation[:, None]
    return (value - value * saturation * share).round()


def _to_grey(views: Tensor, _: NDArray) -> Tensor:
    return _grey(views).expand_as(views)


def _blurred(views: Tensor, radii: NDArray) -> Tensor:
    """Blur each view by a kernel of its own, rows then columns."""
    kernels = [three_boxes(float(radius)) for radius in radii]
    reach = max(len(kernel) for kernel in kernels) // 2
    padded = [np.pad(kernel, reach - len(kernel) // 2) for kernel in kernels]
    weights = _on_device(np.stack(padded, axis=1), views)  # (K, P)
    for axis in (3, 2):
        size = views.shape[axis]
        border = [reach, reach, 0, 0] if axis == 3 else [0, 0, reach, reach]
        wide = F.pad(views, border, mode='replicate')
        blurred = torch.zeros_like(views)
        # Sums of shifted views: a convolution with a kernel for each image
        # has as many groups as channels, which no library does fast.
        for start, weight in enumerate(weights):
            blurred.addcmul_(
                wide.narrow(axis, start, size), weight[:, None, None, None]
            )
        views = blurred
    return views.round().clamp(0, 255)


def _solarized(views: Tensor, values: NDArray) -> Tensor:
    return torch.where(views < _factors(values, views), views, 255 - views)


_ADJUST = (_brightness, _contrast, _saturation, _hue)
