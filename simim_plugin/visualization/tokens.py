"""What an encoder sees: tokens as colours, attention, and their partners.

Shape key: B images, R x C patches, A attention heads, D channels, K lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from .style import (
    QUIET,
    TEXT,
    halo,
    heading,
    new_figure,
    no_ticks,
    sparse,
    title,
)

AXES = 3
"""Principal components that are drawn."""

PER_ROW = 6

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
    """The first three principal components of all tokens, on one basis.

    Args:
        tokens (Tensor): (..., D) of one image or of several.

    Returns:
        tuple[Tensor, Tensor]: components (..., 3) float64, the first the
        largest, each signed so that its largest weight is positive; and the
        share (3,) of the variance that each explains, 0 to 1.
    """
    flat = tokens.double().flatten(0, -2)  # (M, D)
    # What float32 rounds is no variance.
    noise = 1e-13 * flat.square().sum() + 1e-30
    flat = flat - flat.mean(dim=0)
    values, basis = torch.linalg.eigh(flat.T @ flat)  # rising
    values, basis = values.flip(0).clamp_min(0), basis.flip(1)[:, :AXES]
    largest = basis.abs().argmax(dim=0, keepdim=True)
    sign = basis.gather(0, largest).sign()
    basis = basis * sign * (values[:AXES] > noise)  # (D, 3)
    shares = values[:AXES] / values.sum().clamp_min(noise)
    parts = flat @ basis
    return parts.unflatten(0, tokens.shape[:-1]), shares


def colours_of(parts: Tensor) -> np.ndarray:
    """Colours for three components, also for the red-green blind.

    The first is the lightness, the second runs from blue to yellow, the
    third from green to red. Each is scaled to 98 % of its tokens, and
    constant ones are grey.

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
    """Images, and below each its patch tokens as colours, on one basis.

    Args:
        images (Sequence[np.ndarray]): B times (H, W, 3) uint8 RGB.
        tokens (Tensor): (B, R, C, D).

    Returns:
        Figure: six images in a row.
    """
    parts, shares = principal_parts(tokens)
    colours = colours_of(parts)
    per_row = min(PER_ROW, len(images))
    rows = -(-len(images) // per_row)
    figure = new_figure(max(1.75 * per_row, 5.2), 3.5 * rows + 0.75)
    panels = figure.subplots(2 * rows, per_row, squeeze=False)
    for i, axes in enumerate(panels[::2].flat):
        below = panels[1::2].flat[i]
        no_ticks(axes)
        no_ticks(below)
        if i < len(images):
            axes.imshow(images[i])
            below.imshow(colours[i], interpolation='nearest')
        else:
            axes.set_axis_off()
            below.set_axis_off()
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
    """What the cls token attends to: the mean of the heads, and each head.

    Args:
        image (np.ndarray): (H, W, 3) uint8 RGB.
        shares (Tensor): (A, 1 + R * R), of
            ``FrozenEncoder.cls_attention``.

    Returns:
        Figure: the image, the mean, and the heads; every map is scaled to
        its own largest value.
    """
    side = round((shares.shape[1] - 1) ** 0.5)
    maps = shares[:, 1:].unflatten(1, (side, side))  # (A, R, R)
    shown = [('all heads', maps.mean(dim=0), shares[:, 0].mean())]
    shown += [
        (f'head {i}', one, own)
        for i, (one, own) in enumerate(zip(maps, shares[:, 0], strict=True), 1)
    ]
    per_row = min(PER_ROW + 1, 1 + len(shown))
    rows = -(-(1 + len(shown)) // per_row)
    figure = new_figure(1.75 * per_row, 2.15 * rows + 0.75)
    panels = figure.subplots(rows, per_row, squeeze=False)
    for axes in panels.flat:
        no_ticks(axes)
        axes.set_axis_off()
    panels.flat[0].imshow(image)
    _caption(panels.flat[0], 'image')
    for axes, (name, one, own) in zip(panels.flat[1:], shown, strict=False):
        scale = PowerNorm(0.5, 0, max(one.max().item(), 1e-12))
        axes.imshow(one.numpy(), cmap='cividis', norm=scale)
        _caption(axes, f'{name}: {1 - own:.0%}')
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
    """For every patch of one image the most similar one of another.

    Args:
        first (Tensor): (R, C, D) tokens.
        second (Tensor): (R', C', D) tokens.

    Returns:
        tuple[Tensor, Tensor, Tensor]: row and column in the second image
        (R, C, 2), the cosine (R, C), and whether each is the other's
        nearest (R, C) bool.
    """
    a, b = (F.normalize(x.flatten(0, 1), dim=-1) for x in (first, second))
    cosine = a @ b.T  # (R * C, R' * C')
    value, there = cosine.max(dim=1)
    mutual = cosine.argmax(dim=0)[there] == torch.arange(len(a))
    cols = second.shape[1]
    where = torch.stack([there // cols, there % cols], dim=-1)
    grid = first.shape[:2]
    return (
        where.unflatten(0, grid),
        value.unflatten(0, grid),
        mutual.unflatten(0, grid),
    )


def draw_across(
    images: Sequence[np.ndarray], first: Tensor, second: Tensor
) -> Figure:
    """Lines from patches of one image to the nearest ones of another.

    Args:
        images (Sequence[np.ndarray]): two of (H, W, 3) uint8 RGB.
        first (Tensor): (R, C, D) tokens of the first image.
        second (Tensor): (R, C, D) tokens of the second one.

    Returns:
        Figure: of many patches a part; the colour tells the cosine, thick
        lines join patches that are each other's nearest.
    """
    where, cosine, mutual = nearest_patches(first, second)
    rows, cols = cosine.shape
    chosen, step = sparse(torch.ones_like(mutual))
    figure = new_figure(7.6, 4.0)
    axes = figure.subplots()
    shift = 1.35 * cols
    for image, left in zip(images, (0.0, shift), strict=True):
        extent = (left - 0.5, left + cols - 0.5, rows - 0.5, -0.5)
        axes.imshow(image, extent=extent, interpolation='bicubic')
    no_ticks(axes)
    axes.set_xlim(-0.6, shift + cols - 0.4)
    ends = torch.stack([chosen.nonzero(), where[chosen]], dim=1)
    points = ends.flip(-1).double().numpy()  # (K, 2, 2) x, y
    points[:, 1, 0] += shift
    value, thick = cosine[chosen].numpy(), mutual[chosen].numpy()
    lines = LineCollection(
        list(points), cmap='cividis', linewidths=np.where(thick, 2.4, 0.9)
    )
    lines.set(array=value, path_effects=halo(2.6))
    axes.add_collection(lines)
    for end in (points[:, 0], points[:, 1]):
        dots = axes.scatter(
            end[:, 0], end[:, 1], 14, c=value, cmap='cividis', zorder=3
        )
        dots.set(edgecolor='white', linewidth=0.6)
    bar = figure.colorbar(lines, ax=axes, shrink=0.8, format='%.2f')
    bar.set_label('cosine of the tokens', fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
    note = f"{mutual.sum()} of {mutual.numel()} are each other's (thick)"
    if step > 1:
        note += f'; one in {step**2} is drawn'
    title(axes, 'Nearest patches in the other image', note)
    return figure


def _caption(axes: Axes, text: str) -> None:
    axes.text(
        0.5,
        -0.04,
        text,
        transform=axes.transAxes,
        ha='center',
        va='top',
        fontsize=TEXT,
        color=QUIET,
    )
