"""Patch tokens as colours, attention maps, and nearest patches.

Shape key: B images, R x C patches, A attention heads, D channels, K lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isqrt

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from .side_by_side import segments, show_both, sparse
from .style import (
    TEXT,
    caption,
    dots,
    halo,
    heading,
    hide_axes,
    new_figure,
    title,
)

AXES = 3
"""Number of principal components drawn."""

PER_ROW = 6
"""Images in a row."""

# Oklab to linear sRGB (Björn Ottosson, 2020).
_TO_CONES = np.array(
    [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def principal_parts(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the first three principal components of all tokens.

    Args:
        tokens (Tensor): (..., D) of one or more images.

    Returns:
        tuple[Tensor, Tensor]: components (..., 3) float64 by falling
        variance, with signs that make the largest weight of each positive;
        and their shares (3,) of the variance, 0 to 1.
    """
    flat = tokens.double().flatten(0, -2)  # (M, D)
    # Rounding errors of float32 are no variance.
    noise = 1e-13 * flat.square().sum() + 1e-30
    flat = flat - flat.mean(dim=0)
    values, basis = torch.linalg.eigh(flat.T @ flat)  # ascending
    values, basis = values.flip(0).clamp_min(0), basis.flip(1)[:, :AXES]
    largest = basis.abs().argmax(dim=0, keepdim=True)
    sign = basis.gather(0, largest).sign()
    basis = basis * sign * (values[:AXES] > noise)  # (D, 3)
    shares = values[:AXES] / values.sum().clamp_min(noise)
    parts = flat @ basis
    return parts.unflatten(0, tokens.shape[:-1]), shares


def colours_of(parts: Tensor) -> np.ndarray:
    """Convert three components to colours that red-green blind people see.

    The first component is the lightness, the second runs from blue to
    yellow, the third from green to red. Each is scaled to the range of 98 %
    of its tokens. Constant components are grey.

    Args:
        parts (Tensor): (..., 3), centred.

    Returns:
        np.ndarray: (..., 3) RGB, 0 to 1.
    """
    parts = parts.double()
    reach = parts.abs().flatten(0, -2).quantile(0.98, dim=0)
    scaled = parts / reach.clamp_min(1e-30)
    light, yellow, red = scaled.clamp(-1, 1).unbind(-1)
    lab = torch.stack([0.63 + 0.27 * light, 0.10 * red, 0.12 * yellow], -1)
    linear = (lab.numpy() @ _TO_CONES.T) ** 3 @ _TO_RGB.T
    linear = linear.clip(0, 1)
    bright = 1.055 * linear ** (1 / 2.4) - 0.055
    return np.where(linear > 0.0031308, bright, 12.92 * linear)


def draw_tokens(images: Sequence[np.ndarray], tokens: Tensor) -> Figure:
    """Draw images and, below each, its patch tokens as colours on one basis.

    Args:
        images (Sequence[np.ndarray]): B times (H, W, 3) uint8 RGB.
        tokens (Tensor): (B, R, C, D).

    Returns:
        Figure: up to six images in a row.
    """
    parts, shares = principal_parts(tokens)
    per_row = min(PER_ROW, len(images))
    rows = ceil(len(images) / per_row)
    figure = new_figure(max(1.75 * per_row, 5.2), 3.5 * rows + 0.75)
    panels = figure.subplots(2 * rows, per_row, squeeze=False)
    for axes in panels.flat:
        hide_axes(axes)
    for axes, image in zip(panels[::2].flat, images, strict=False):
        axes.imshow(image)
    for axes, grid in zip(panels[1::2].flat, colours_of(parts), strict=False):
        axes.imshow(grid, interpolation='nearest')
    names = ('dark to light', 'blue to yellow', 'green to red')
    legend = ', '.join(
        f'{name} {share:.0%}'
        for name, share in zip(names, shares.tolist(), strict=True)
    )
    heading(
        figure,
        'Patch tokens by their three principal components',
        f'one basis for all images; variance: {legend}',
    )
    return figure


def draw_attention(image: np.ndarray, shares: Tensor) -> Figure:
    """Draw the attention of the cls token: the mean over heads and each head.

    Args:
        image (np.ndarray): (H, W, 3) uint8 RGB.
        shares (Tensor): (A, 1 + R * R), see ``FrozenEncoder.cls_attention``.

    Returns:
        Figure: the image, the mean and the heads. Each map is scaled to its
        own maximum.
    """
    side = isqrt(shares.shape[1] - 1)
    shown = torch.cat([shares.mean(dim=0, keepdim=True), shares])
    names = ['all heads', *(f'head {i + 1}' for i in range(len(shares)))]
    per_row = min(PER_ROW + 1, 1 + len(shown))
    rows = ceil((1 + len(shown)) / per_row)
    figure = new_figure(1.75 * per_row, 2.15 * rows + 0.75)
    panels = figure.subplots(rows, per_row, squeeze=False).ravel()
    for axes in panels:
        hide_axes(axes)
    panels[0].imshow(image)
    texts = ['image']
    for axes, name, row in zip(panels[1:], names, shown, strict=False):
        grid = row[1:].unflatten(0, (side, side))  # (R, R)
        scale = PowerNorm(0.5, 0, max(grid.max().item(), 1e-12))
        axes.imshow(grid.numpy(), cmap='cividis', norm=scale)
        texts.append(f'{name}: {row[1:].sum():.0%}')
    for axes, text in zip(panels, texts, strict=False):
        caption(axes, 0.5, -0.04, text, transform=axes.transAxes)
    heading(
        figure,
        'What the cls token attends to in the last block',
        'brightness: square root of the share, up to the largest of each '
        'map; in percent: all that is on patches',
    )
    return figure


def nearest_patches(
    first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the most similar patch of another image for every patch.

    Args:
        first (Tensor): (R, C, D) tokens.
        second (Tensor): (R', C', D) tokens.

    Returns:
        tuple[Tensor, Tensor, Tensor]: row and column in the second image
        (R, C, 2), the cosine (R, C), and a mask (R, C) bool, True if the
        two are each other's nearest.
    """
    a, b = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    cosine = a @ b.flatten(0, 1).T  # (R, C, R' * C')
    value, there = cosine.max(dim=-1)  # (R, C)
    back = cosine.flatten(0, 1).argmax(dim=0)[there]
    mutual = back == torch.arange(there.numel()).view_as(there)
    cols = second.shape[1]
    where = torch.stack([there // cols, there % cols], dim=-1)
    return where, value, mutual


def draw_across(
    images: Sequence[np.ndarray], first: Tensor, second: Tensor
) -> Figure:
    """Draw lines from patches of one image to the nearest ones of another.

    Args:
        images (Sequence[np.ndarray]): two of (H, W, 3) uint8 RGB.
        first (Tensor): (R, C, D) tokens of the first image.
        second (Tensor): (R, C, D) tokens of the second one.

    Returns:
        Figure: colours show the cosine; thick lines connect patches that
        are each other's nearest. Only a part of many patches is drawn.
    """
    where, cosine, mutual = nearest_patches(first, second)
    chosen, thinned = sparse(torch.ones_like(mutual))
    figure = new_figure(7.6, 4.0)
    axes = figure.subplots()
    shift = show_both(axes, images, mutual.shape, 1.35)
    points = segments(chosen, where, shift)
    value, thick = cosine[chosen].numpy(), mutual[chosen].numpy()
    lines = LineCollection(
        list(points), cmap='cividis', linewidths=np.where(thick, 2.4, 0.9)
    )
    lines.set(array=value, path_effects=halo(2.6))
    axes.add_collection(lines)
    for ends in (points[:, 0], points[:, 1]):
        dots(axes, ends, 14, c=value, cmap='cividis')
    bar = figure.colorbar(lines, ax=axes, shrink=0.8, format='%.2f')
    bar.set_label('cosine of the tokens', fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
    note = f"{mutual.sum()} of {mutual.numel()} are each other's (thick)"
    title(axes, 'Nearest patches in the other image', note + thinned)
    return figure
