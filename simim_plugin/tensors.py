"""Small conversions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Return floating-point numbers in float32 or wider, others unchanged.

    Half and bfloat16 are too coarse for sums and for coordinates: bfloat16
    cannot hold odd numbers above 256. torchvision has no CPU kernels for
    either.
    """
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move a small tensor of the CPU without a wait for the device."""
    if torch.device(device).type == 'cuda' and not tensor.is_pinned():
        tensor = tensor.pin_memory()  # other memory makes the copy wait
    return tensor.to(device, non_blocking=True)
