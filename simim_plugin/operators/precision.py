"""The type in which operators compute."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Return half and bfloat16 tensors as float32, others unchanged.

    torchvision has no CPU kernels for either type, and bfloat16 cannot hold
    odd coordinates above 256.
    """
    if tensor.dtype in (torch.half, torch.bfloat16):
        return tensor.float()
    return tensor
