"""Features of regions: RoIAlign and RoIPool.

Shape key: B batch, C channels, H x W feature map, K regions as (image index,
x1, y1, x2, y2) in pixels of the image, P x Q grid of a region.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import wide

MAX, AVERAGE = 0, 1


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool bilinear samples of every cell (He et al. 2017).

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (K, 5).
        output (Tensor): (K, C, P, Q), is written.
        argmax_y (Tensor): (K, C, P, Q), is written by ``MAX``: the row within
            the cell of the sample that won. (mmcv keeps its position, which
            half and bfloat16 round to another pixel.)
        argmax_x (Tensor): the same for its column.
        aligned_height (int): P.
        aligned_width (int): Q.
        spatial_scale (float): size of the feature map over that of the image.
        sampling_ratio (int): samples per cell and direction; 0 takes as many
            as the cell has rows and columns.
        pool_mode (int): ``MAX`` or ``AVERAGE``.
        aligned (bool): pixel centres lie at halves.
    """
    features, regions = wide(input), wide(rois).type_as(wide(input))
    size = aligned_height, aligned_width
    if pool_mode == AVERAGE:
        output.copy_(
            torch.ops.torchvision.roi_align(
                *(features, regions, spatial_scale, *size),
                *(sampling_ratio, aligned),
            )
        )
        return
    output.zero_()
    *_, counts = _samples(
        regions, size, spatial_scale, sampling_ratio, aligned
    )
    for count in counts.unique(dim=0):
        if (count < 1).any():
            continue  # a region without extent has no samples
        chosen = (counts == count).all(1).nonzero()[:, 0]
        down, across = count.tolist()
        # With one sample per cell, RoIAlign gives the samples themselves.
        samples = torch.ops.torchvision.roi_align(
            *(features, regions[chosen], spatial_scale),
            *(size[0] * down, size[1] * across, 1, aligned),
        )
        best, flat = F.max_pool2d(samples, (down, across), return_indices=True)
        row, column = flat // (size[1] * across), flat % (size[1] * across)
        output[chosen] = best.type_as(output)
        argmax_y[chosen] = (row % down).type_as(output)
        argmax_x[chosen] = (column % across).type_as(output)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of the features to ``grad_input``, (B, C, H, W)."""
    grad = wide(grad_output)
    regions = wide(rois).type_as(grad)
    if pool_mode == AVERAGE:
        back = torch.ops.torchvision._roi_align_backward(
            *(grad, regions, spatial_scale, aligned_height, aligned_width),
            *(*grad_input.shape, sampling_ratio, aligned),
        )
    else:
        size = aligned_height, aligned_width
        start, cell, counts = _samples(
            regions, size, spatial_scale, sampling_ratio, aligned
        )
        y, x = (
            _positions(wide(argmax), start, cell, counts, axis)
            for axis, argmax in enumerate((argmax_y, argmax_x))
        )
        sampled = (counts > 0).all(1).view(-1, 1, 1, 1)
        grad = torch.where(sampled, grad, 0)
        back = _spread(grad, regions, y, x, grad_input.shape)
    grad_input += back.type_as(grad_input)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """The maximum of every cell of whole pixels (Girshick 2015).

    mmcv's rule: a region ends at x2 + 1, and a cell takes each pixel that it
    touches. torchvision rounds the region first, which gives other cells.

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (K, 5).
        output (Tensor): (K, C, P, Q), is written; 0 in an empty cell.
        argmax (Tensor): (K, C, P, Q), is written: the place of the maximum in
            the flat feature map, -1 in an empty cell.
        pooled_height (int): P.
        pooled_width (int): Q.
        spatial_scale (float): size of the feature map over that of the image.
    """
    output.zero_()
    argmax.fill_(-1)
    features, regions = wide(input), wide(rois).type_as(wide(input))
    height, width = input.shape[-2:]
    ends = regions[:, 1:] + regions.new_tensor([0, 0, 1, 1])
    corners = ends * spatial_scale
    rows = _cells(corners[:, 1], corners[:, 3], pooled_height, height)
    columns = _cells(corners[:, 0], corners[:, 2], pooled_width, width)
    for k, image in enumerate(regions[:, 0].long().tolist()):
        for p, (top, bottom) in enumerate(rows[k]):
            for q, (left, right) in enumerate(columns[k]):
                part = features[image, :, top:bottom, left:right]
                if part.numel():
                    best, flat = part.flatten(1).max(1)
                    row = top + flat // (right - left)
                    column = left + flat % (right - left)
                    output[k, :, p, q] = best.type_as(output)
                    argmax[k, :, p, q] = (row * width + column).int()


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the features to ``grad_input``, (B, C, H, W)."""
    place = argmax.long()
    grad = torch.where(place >= 0, wide(grad_output), 0)
    back = _add_at(grad, rois, place.clamp(min=0), grad_input.shape)
    grad_input += back.type_as(grad_input)


def _samples(
    regions: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where RoIAlign samples on the feature map.

    Returns:
        tuple[Tensor, Tensor, Tensor]: start of every region, extent of its
        cells and number of samples of a cell, (K, 2) each, as (y, x).
    """
    corners = regions[:, 1:] * spatial_scale - (0.5 if aligned else 0)
    start, end = corners[:, [1, 0]], corners[:, [3, 2]]
    extent = end - start if aligned else (end - start).clamp(min=1)
    cell = extent / extent.new_tensor(size)
    counts = cell.ceil().long()
    if sampling_ratio > 0:
        counts = torch.full_like(counts, sampling_ratio)
    return start, cell, counts


def _positions(
    argmax: Tensor, start: Tensor, cell: Tensor, counts: Tensor, axis: int
) -> Tensor:
    """Coordinates of samples (K, C, P, Q) along an axis of the map."""
    number = torch.arange(argmax.shape[2 + axis], device=argmax.device)
    number = number.view(-1, 1) if axis == 0 else number
    start, cell, counts = (
        x[:, axis].view(-1, 1, 1, 1) for x in (start, cell, counts)
    )
    return start + (number + (argmax + 0.5) / counts.clamp(min=1)) * cell


def _cells(
    start: Tensor, end: Tensor, number: int, length: int
) -> list[list[tuple[int, int]]]:
    """First and last + 1 pixel of every cell along one axis."""
    edges = torch.arange(number, device=start.device).type_as(start)
    step = ((end - start) / number)[:, None]  # (K, 1)
    first = (edges * step + start[:, None]).floor().clamp(0, length)
    last = ((edges + 1) * step + start[:, None]).ceil().clamp(0, length)
    last = torch.where(step > 0, last, first)  # no cells without extent
    return [
        list(zip(*pair, strict=True))
        for pair in zip(first.int().tolist(), last.int().tolist(), strict=True)
    ]


def _spread(
    grad: Tensor, regions: Tensor, y: Tensor, x: Tensor, shape: torch.Size
) -> Tensor:
    """Send gradients (K, C, P, Q) to the four pixels around positions.

    Nothing goes to positions beyond a pixel outside of the map.
    """
    height, width = shape[-2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    grad = torch.where(inside, grad, 0)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    back = grad.new_zeros(shape)
    for row, tall in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, broad in ((left, 1 - (x - left)), (left + 1, x - left)):
            place = row.clamp(max=height - 1) * width
            place = (place + column.clamp(max=width - 1)).long()
            back += _add_at(grad * tall * broad, regions, place, shape)
    return back


def _add_at(
    grad: Tensor, rois: Tensor, place: Tensor, shape: torch.Size
) -> Tensor:
    """Sum gradients (K, C, P, Q) at flat places of their feature maps."""
    _, channels, height, width = shape
    image = rois[:, 0].long().view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=grad.device).view(1, -1, 1, 1)
    index = (image * channels + channel) * height * width + place
    flat = grad.new_zeros(shape).flatten()
    return flat.index_add(0, index.flatten(), grad.flatten()).view(shape)
