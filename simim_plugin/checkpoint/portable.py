"""Two independent forward passes for checking converted weights.

Shape key: B batch, N patches, C channels, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..vit import PlainViT
from .grids import Grid, bias_grid, grid_of
from .loading import Weights, check_fit
from .names import StateDict

DEFAULT_GRID = (16, 16)
"""The grid of encoders with rotary positions, whose files state none."""


class Features(NamedTuple):
    """The outputs by which models are compared.

    Args:
        tokens (Tensor): (B, 1 + N, C), the cls token first.
        pooled (Tensor, optional): logits (B, K), or, for an encoder with an
            fc_norm but no head, its output (B, C).
    """

    tokens: Tensor
    pooled: Tensor | None = None


class Portable(nn.Module):
    """An encoder and its linear head, if it has one, built from tensors.

    The head reads the mean of the patch tokens through fc_norm
    (``backbone.ln2``), or the cls token after the final norm
    (``backbone.ln1``). A head of another kind is left out.

    Args:
        weights (Weights): the tensors.
        num_heads (int, optional): attention heads, needed where neither
            ``weights`` nor the width determine them.
        grid (tuple[int, int], optional): see :func:`load_backbone`.

    Raises:
        CheckpointError: if the tensors are no plain ViT, or the number of
            heads is not known.
    """

    def __init__(
        self,
        weights: Weights,
        num_heads: int | None = None,
        grid: Grid | None = None,
    ) -> None:
        super().__init__()
        encoder, head = weights.part('backbone'), weights.part('head')
        self.dims, self.depth, self.patch = weights.shape()
        self.family = weights.family
        self.options = weights.options(num_heads)
        arch = self.options['arch']
        self.channels = self.options.get('in_channels', 3)
        self.num_heads = arch['num_heads']
        self.hidden = arch['feedforward_channels']
        self.eps = self.options.get('norm_cfg', {}).get('eps', 1e-6)
        self.final_norm = 'ln1.weight' in encoder
        self.fc_norm = 'ln2.weight' in encoder
        self.qkv_bias = 'layers.0.attn.qkv.bias' in encoder
        self.grid = _place(encoder, weights, grid or weights.grid)
        rows, columns = self.grid
        self.size = rows * self.patch, columns * self.patch
        self.backbone = self._build_backbone()
        state = weights.unknown()
        state |= {f'backbone.{name}': x for name, x in encoder.items()}
        linear = {'fc.weight', 'fc.bias'} == head.keys()
        self.num_classes, self.head = 0, None
        if linear and (self.final_norm or self.fc_norm):
            self.num_classes = len(head['fc.bias'])
            fc = nn.Linear(self.dims, self.num_classes)
            self.head = nn.ModuleDict(dict(fc=fc))
            state |= {f'head.{name}': x for name, x in head.items()}
        self.pools = self.fc_norm or self.head is not None
        check_fit(
            self.state_dict(),
            state,
            weights.file,
            'only plain ViTs can be converted',
        )
        self.load_state_dict(state)
        self.eval()

    @property
    def img_size(self) -> int | tuple[int, int]:
        """Height and width of the images, pixels, or the side of a square."""
        height, width = self.size
        return height if height == width else self.size

    def _build_backbone(self) -> PlainViT:
        backbone = PlainViT(
            **{'final_norm': False, **self.options},
            img_size=self.size,
            out_type='avg_featmap' if self.fc_norm else 'raw',
        )
        backbone.out_type = 'raw'  # forward applies fc_norm itself
        return backbone

    def forward(self, images: Tensor) -> Features:
        """Compute the features of images (B, channels, H, W)."""
        (tokens,) = self.backbone(images)
        if not self.pools:
            return Features(tokens)
        pooled = (
            self.backbone.ln2(
                tokens[:, self.backbone.num_extra_tokens :].mean(dim=1)
            )
            if self.fc_norm
            else tokens[:, 0]
        )
        if self.head is None:
            return Features(tokens, pooled)
        return Features(tokens, self.head['fc'](pooled))


def _place(
    encoder: dict[str, Tensor], weights: Weights, grid: Grid | None
) -> Grid:
    """Return the grid of the positions; give them the cls token's row."""
    if 'pos_embed' in encoder:
        extra = int('cls_token' in encoder)
        if extra:
            table = weights.with_row(encoder['pos_embed'], grid, None)
            encoder['pos_embed'] = table
        return grid_of(encoder['pos_embed'][0, extra:], weights.file, grid)
    if 'layers.0.attn.bias_table' in encoder:
        table = encoder['layers.0.attn.bias_table']
        return bias_grid(table, weights.file, grid)
    return grid or DEFAULT_GRID


def released_forward(
    state: StateDict, images: Tensor, num_heads: int
) -> Features:
    """Run the released encoder and classifier on tensors by their own names.

    They have no norm after the blocks, and the classifier reads the mean of
    the patch tokens through fc_norm.
    """
    state = {name: value.float() for name, value in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        bias = state.get(f'{name}.bias')
        return F.linear(x, state[f'{name}.weight'], bias)

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f'{name}.weight'], state[f'{name}.bias']
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)

    kernel = state['patch_embed.proj.weight']  # (C, 3, P, P)
    bias = state['patch_embed.proj.bias']
    patches = F.conv2d(images, kernel, bias, stride=kernel.shape[2:])
    x = patches.flatten(2).transpose(1, 2)  # (B, N, C)
    cls_token = state['cls_token'].expand(len(x), -1, -1)
    x = torch.cat([cls_token, x], dim=1) + state['pos_embed']
    k = 0
    while f'blocks.{k}.norm1.weight' in state:
        block = f'blocks.{k}'
        qkv = linear(norm(x, f'{block}.norm1'), f'{block}.attn.qkv')
        q, k_, v = (
            part.unflatten(-1, (num_heads, -1)).transpose(1, 2)
            for part in qkv.chunk(3, dim=-1)
        )  # (B, heads, 1 + N, C / heads)
        mixed = F.scaled_dot_product_attention(q, k_, v)
        x = x + linear(mixed.transpose(1, 2).flatten(2), f'{block}.attn.proj')
        hidden = linear(norm(x, f'{block}.norm2'), f'{block}.mlp.fc1')
        x = x + linear(F.gelu(hidden), f'{block}.mlp.fc2')
        k += 1
    if 'fc_norm.weight' not in state:
        return Features(x)
    pooled = norm(x[:, 1:].mean(dim=1), 'fc_norm')
    return Features(
        x, linear(pooled, 'head') if 'head.weight' in state else pooled
    )
