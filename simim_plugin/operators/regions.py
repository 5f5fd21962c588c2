"""Pooling of regions: RoIAlign and RoIPool.

Shape key: B batch, C channels, H x W feature map, K regions as (image index,
x1, y1, x2, y2) in pixels of the image, P x Q grid of a region.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors import wide

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
    """Pool bilinear samples in every cell (He et al. 2017).

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (K, 5).
        output (Tensor): (K, C, P, Q), written.
        argmax_y (Tensor): (K, C, P, Q), written by ``MAX``: the row within
            the cell of the largest sample. mmcv keeps its position, which
            half and bfloat16 round to another pixel.
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
    options = spatial_scale, sampling_ratio, aligned
    if pool_mode == MAX:
        _align_max(
            *(features, regions, size, options, output, argmax_y, argmax_x)
        )
        return
    output.copy_(
        torch.ops.torchvision.roi_align(
            features, regions, spatial_scale, *size, sampling_ratio, aligned
        )
    )


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
    """Take the maximum of every cell of whole pixels (Girshick 2015).

    This is mmcv's rule: a region ends at x2 + 1, and a cell holds every pixel
    that it touches. torchvision rounds the region first, which gives other
    cells.

    Args as in :func:`roi_align_forward`. ``output`` (K, C, P, Q) is 0 in an
    empty cell. ``argmax`` receives the place of the maximum in the flat
    feature map, -1 in an empty cell.
    """
    features, regions = wide(input), wide(rois).type_as(wide(input))
    height, width = input.shape[-2:]
    ends = regions[:, 1:] + regions.new_tensor([0, 0, 1, 1])
    left, top, right, bottom = (ends * spatial_scale).unbind(1)
    rows, no_row = _cells(top, bottom, pooled_height, height)
    columns, no_column = _cells(left, right, pooled_width, width)
    flat = features.flatten(2).mT.contiguous()  # (B, H W, C)
    for k, image in enumerate(regions[:, 0].long().tolist()):
        places = rows[k][:, None, :, None] * width + columns[k][:, None]
        places = places.flatten(2)  # (P, Q, pixels of a cell)
        best, chosen = flat[image][places].max(2)  # (P, Q, C)
        output[k] = best.permute(2, 0, 1)
        argmax[k] = places.gather(2, chosen).permute(2, 0, 1)
    empty = (no_row[:, :, None] | no_column[:, None])[:, None]
    output.masked_fill_(empty, 0)
    argmax.masked_fill_(empty, -1)


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


def _align_max(
    features: Tensor,
    regions: Tensor,
    size: tuple[int, int],
    options: tuple[float, int, bool],
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
) -> None:
    """Write the largest sample of every cell, and its row and column.

    ``options`` are the spatial scale, sampling ratio and ``aligned``.
    """
    output.zero_()
    spatial_scale, _, aligned = options
    *_, counts = _samples(regions, size, *options)
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


def _samples(
    regions: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the geometry of RoIAlign's samples on the feature map.

    Returns:
        tuple[Tensor, Tensor, Tensor]: start of every region, extent of its
        cells and samples per cell, (K, 2) each, as (y, x).
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
    """Return the coordinates of samples (K, C, P, Q) along an axis."""
    number = torch.arange(argmax.shape[2 + axis], device=argmax.device)
    number = number.view(-1, 1) if axis == 0 else number
    start, cell, counts = (
        x[:, axis].view(-1, 1, 1, 1) for x in (start, cell, counts)
    )
    return start + (number + (argmax + 0.5) / counts.clamp(min=1)) * cell


def _cells(
    start: Tensor, end: Tensor, number: int, length: int
) -> tuple[list[Tensor], Tensor]:
    """Divide regions (K,) along an axis of ``length`` pixels into cells.

    Returns:
        tuple[list[Tensor], Tensor]: the pixels of the cells of every region,
        (number, pixels), where short cells repeat their last one; and a mask
        of empty cells, (K, number).
    """
    edges = torch.arange(number, device=start.device).type_as(start)
    step = ((end - start) / number)[:, None]  # (K, 1)
    first = (edges * step + start[:, None]).floor().clamp(0, length)
    last = ((edges + 1) * step + start[:, None]).ceil().clamp(0, length)
    last = torch.where(step > 0, last, first)  # no cells without extent
    first, last = first.long(), last.long()
    longest = (last - first).amax(1).clamp(min=1).tolist()
    offsets = torch.arange(max(longest, default=1), device=start.device)
    pixels = (first[..., None] + offsets).minimum(last[..., None] - 1)
    pixels = pixels.clamp(min=0)
    cut = [cells[:, :n] for cells, n in zip(pixels, longest, strict=True)]
    return cut, first == last


def _spread(
    grad: Tensor, regions: Tensor, y: Tensor, x: Tensor, shape: torch.Size
) -> Tensor:
    """Spread gradients (K, C, P, Q) over the four pixels around positions.

    Positions more than a pixel outside the map receive nothing.
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
    """Add up gradients (K, C, P, Q) at flat places of their maps."""
    _, channels, height, width = shape
    image = rois[:, 0].long().view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=grad.device).view(1, -1, 1, 1)
    index = (image * channels + channel) * height * width + place
    flat = grad.new_zeros(shape).flatten()
    return flat.index_add(0, index.flatten(), grad.flatten()).view(shape)
