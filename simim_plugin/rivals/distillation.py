"""Self-distillation: DINO (arXiv 2104.14294, eq. 2 to 4), iBOT (2111.07832,
eq. 2 and 3).

Shape key: B batch, G global and V all crops of an image (the global ones
first), N patches, K outputs.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn


class PrototypeHead(BaseModule):
    """DINO's projection head: an MLP with GELU, then cosines to K vectors.

    The last layer is weight-normalised with the length 1.

    Args:
        in_dims (int): channels of the encoder.
        out_dims (int): K.
        hidden_dims (int): of the MLP. Defaults to 2048.
        bottleneck_dims (int): of its output. Defaults to 256.
        depth (int): linear layers of the MLP. Defaults to 3.
    """

    def __init__(
        self,
        in_dims: int,
        out_dims: int,
        hidden_dims: int = 2048,
        bottleneck_dims: int = 256,
        depth: int = 3,
    ) -> None:
        super().__init__()
        widths = [in_dims, *[hidden_dims] * (depth - 1), bottleneck_dims]
        layers: list[nn.Module] = []
        for here, there in pairwise(widths):
            layers += [nn.Linear(here, there), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.last_layer = nn.Linear(bottleneck_dims, out_dims, bias=False)

    def init_weights(self) -> None:
        """Initialise by truncated normals, as the authors do."""
        super().init_weights()
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer.reset_parameters()

    def forward(self, features: Tensor) -> Tensor:
        """Map features (..., C) to cosines (..., K)."""
        features = F.normalize(self.mlp(features), dim=-1)
        return F.linear(features, F.normalize(self.last_layer.weight, dim=-1))


def sharpened(outputs: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Return the teacher's distribution (..., K), without a gradient."""
    outputs = outputs.detach()
    return F.softmax((outputs - centre) / temperature, dim=-1)


def view_distillation(
    student: Tensor, teacher: Tensor, temperature: float
) -> Tensor:
    """Return DINO's loss, the mean over pairs of different crops.

    Args:
        student (Tensor): (V, B, K) outputs.
        teacher (Tensor): (G, B, K) distributions of the first crops.
        temperature (float): of the student, above 0.
    """
    logs = F.log_softmax(student / temperature, dim=-1)
    terms = -torch.einsum('gbk,vbk->gv', teacher, logs) / logs.shape[1]
    crops = torch.arange(len(student), device=student.device)
    same = crops[: len(teacher), None] == crops
    return terms[~same].mean()


def patch_distillation(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """Return iBOT's loss over masked patches.

    The mean over the masked patches of an image, 0 where there is none, then
    over images and crops.

    Args:
        student (Tensor): (G, B, N, K) outputs of masked crops.
        teacher (Tensor): (G, B, N, K) distributions of whole crops.
        mask (Tensor): (G, B, N) bool, True on masked patches.
        temperature (float): of the student, above 0.
    """
    logs = F.log_softmax(student / temperature, dim=-1)
    terms = -(teacher * logs).sum(dim=-1) * mask  # (G, B, N)
    return (terms.sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)).mean()
