"""The type in which operators compute."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Half and bfloat16 as float32, other types as they are.

    torchvision has no kernels for them on a CPU, and coordinates above 256
    lose whole pixels in bfloat16.
    """
    if tensor.dtype in (torch.half, torch.bfloat16):
        return tensor.float()
    return tensor
