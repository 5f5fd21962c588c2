"""Deformable convolution v1 and v2, and multi-scale deformable attention.

Shape key: B batch, C input and O output channels, H x W map, h x w output
map, G groups of offsets, R x S kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tensors import wide

# mmcv's names of stride, padding and dilation in the two versions.
V1 = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW')
V2 = ('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w')


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: Any,
) -> None:
    """Convolve at deformed positions, without a mask (Dai et al. 2017).

    Args:
        input (Tensor): (B, C, H, W).
        weight (Tensor): (O, C / groups, R, S).
        offset (Tensor): (B, 2 G R S, h, w), y and x of every tap.
        output (Tensor): (B, O, h, w), written.
        columns (Tensor): unused.
        ones (Tensor): unused.
        **geometry: ``V1``, group and deformable_group; kH, kW and
            im2col_step are unused.
    """
    operands = _operands(input, weight, offset, None, None, geometry)
    output.copy_(torch.ops.torchvision.deform_conv2d(*operands))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: Any,
) -> None:
    """Write the gradients of input and offset.

    The same call of torchvision returns the gradient of the weight, which
    ``columns`` passes on to :func:`deform_conv_backward_parameters`.
    """
    operands = _operands(input, weight, offset, None, None, geometry)
    back = _gradients(grad_output, operands)
    grad_input.copy_(back['input'])
    grad_offset.copy_(back['offset'])
    columns.resize_(weight.shape).copy_(back['weight'])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **geometry: Any,
) -> None:
    """Add the gradient of the weight, times ``scale``, to ``grad_weight``."""
    if columns.shape == grad_weight.shape:
        back = columns
    else:  # neither input nor offset needs a gradient
        weight = torch.zeros_like(grad_weight)
        operands = _operands(input, weight, offset, None, None, geometry)
        back = _gradients(grad_output, operands)['weight']
    grad_weight += scale * back.type_as(grad_weight)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: Any,
) -> None:
    """Convolve at deformed positions, with a mask (Zhu et al. 2019).

    Args as in :func:`deform_conv_forward`, with ``bias`` (O,) and ``mask``
    (B, G R S, h, w), a factor of every tap. ``geometry`` has the names of
    ``V2``; kernel_h and kernel_w are unused.
    """
    added = bias if with_bias else None
    operands = _operands(input, weight, offset, mask, added, geometry)
    output.copy_(torch.ops.torchvision.deform_conv2d(*operands))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: Any,
) -> None:
    """Write the gradients of all inputs."""
    added = bias if with_bias else None
    operands = _operands(input, weight, offset, mask, added, geometry)
    back = _gradients(grad_output, operands)
    grad_input.copy_(back['input'])
    grad_weight.copy_(back['weight'])
    grad_offset.copy_(back['offset'])
    grad_mask.copy_(back['mask'])
    if with_bias:
        grad_bias.copy_(back['bias'])


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attend at deformed positions, by mmcv's PyTorch form (Zhu et al. 2021).

    Args:
        value (Tensor): (batch, keys, heads, channels of a head).
        spatial_shapes (Tensor): (levels, 2), height and width.
        level_start_index (Tensor): (levels,), unused.
        sampling_locations (Tensor): (batch, queries, heads, levels, points,
            2), x and y from 0 to 1.
        attention_weights (Tensor): the same shape without the last axis.
        im2col_step (int): unused.

    Returns:
        Tensor: (batch, queries, heads x channels of a head).
    """
    from mmcv.ops.multi_scale_deform_attn import (
        multi_scale_deformable_attn_pytorch,
    )

    attended = multi_scale_deformable_attn_pytorch(
        wide(value),
        spatial_shapes,
        wide(sampling_locations),
        wide(attention_weights),
    )
    return attended.type_as(value)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of values, locations and weights."""
    with torch.enable_grad():
        value, places, weights = (
            wide(tensor).detach().requires_grad_()
            for tensor in (value, sampling_locations, attention_weights)
        )
        attended = ms_deform_attn_forward(
            *(value, spatial_shapes, level_start_index),
            *(places, weights, im2col_step),
        )
        found = torch.autograd.grad(
            attended, (value, places, weights), wide(grad_output)
        )
    grads = (grad_value, grad_sampling_loc, grad_attn_weight)
    for grad, back in zip(grads, found, strict=True):
        grad.copy_(back)


def _operands(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: dict[str, Any],
) -> tuple[Any, ...]:
    """Return the arguments of torchvision, which needs a mask and a bias."""
    use_mask = mask is not None
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = input.new_zeros(len(weight))
    names = V1 if 'dH' in geometry else V2
    return (
        *map(wide, (input, weight, offset, mask, bias)),
        *(geometry[name] for name in (*names, 'group', 'deformable_group')),
        use_mask,
    )


def _gradients(
    grad_output: Tensor, operands: tuple[Any, ...]
) -> dict[str, Tensor]:
    """Return the gradients by the names of the operands."""
    found = torch.ops.torchvision._deform_conv2d_backward(
        wide(grad_output), *operands
    )
    names = ('input', 'weight', 'offset', 'mask', 'bias')
    return dict(zip(names, found, strict=True))
