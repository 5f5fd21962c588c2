"""The two forwards that converted weights are compared by.

Shape key: B batch, N patches, C channels, K classes.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from .loading import Weights, check_fit
from .names import StateDict
from .reading import CheckpointError

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads of the usual widths: the weights do not tell."""


class Features(NamedTuple):
    """What models are compared by.

    Args:
        tokens (Tensor): (B, 1 + N, C), the cls token first.
        pooled (Tensor, optional): logits (B, K); of an encoder with an
            fc_norm but no head its output (B, C).
    """

    tokens: Tensor
    pooled: Tensor | None = None


class Portable(nn.Module):
    """An encoder, with its linear head if it has one, from its tensors.

    The head reads the mean of the patch tokens through fc_norm
    (``backbone.ln2``), or the cls token after the final norm
    (``backbone.ln1``). A head of another kind is left out.

    Args:
        weights (Weights): the tensors.
        num_heads (int, optional): of the attention, where ``weights`` and
            the width do not tell.

    Raises:
        CheckpointError: if the tensors are no plain ViT, or the number of
            heads is not known.
    """

    def __init__(self, weights: Weights, num_heads: int | None = None) -> None:
        super().__init__()
        encoder, head = weights.part('backbone'), weights.part('head')
        try:
            self.dims, self.patch = weights.patches()
            side = isqrt(encoder['pos_embed'].shape[1] - 1)
            hidden = len(encoder['layers.0.ffn.layers.0.0.weight'])
        except KeyError as error:
            raise CheckpointError(
                f'The checkpoint {weights.file} has no encoder tensor '
                f'{error}; only plain ViTs can be converted.'
            ) from error
        blocks = [name for name in encoder if name.startswith('layers.')]
        self.depth = len({name.split('.')[1] for name in blocks})
        self.size = side * self.patch
        self.hidden = hidden
        self.num_heads: int = (
            num_heads
            or weights.about.get('num_attention_heads')
            or HEADS.get(self.dims, 0)
        )
        known = isinstance(self.num_heads, int) and self.num_heads > 0
        if not known or self.dims % self.num_heads:
            raise CheckpointError(
                f'The checkpoint {weights.file} does not tell how many '
                f'attention heads share its {self.dims} channels '
                f'(found {self.num_heads!r}); pass --num-heads.'
            )
        self.eps = weights.about.get('layer_norm_eps', 1e-6)
        self.final_norm = 'ln1.weight' in encoder
        self.fc_norm = 'ln2.weight' in encoder
        self.qkv_bias = 'layers.0.attn.qkv.bias' in encoder
        self.backbone = VisionTransformer(
            arch=dict(
                embed_dims=self.dims,
                num_layers=self.depth,
                num_heads=self.num_heads,
                feedforward_channels=hidden,
            ),
            img_size=self.size,
            patch_size=self.patch,
            qkv_bias=self.qkv_bias,
            norm_cfg=dict(type='LN', eps=self.eps),
            final_norm=self.final_norm,
            out_type='avg_featmap' if self.fc_norm else 'raw',
        )
        self.backbone.out_type = 'raw'  # fc_norm is applied below
        state = {f'backbone.{name}': x for name, x in encoder.items()}
        state |= {
            f'unknown.{n}': x for n, x in weights.part('unknown').items()
        }
        linear = {'fc.weight', 'fc.bias'} == head.keys()
        self.num_classes, self.head = 0, None
        if linear and (self.final_norm or self.fc_norm):
            self.num_classes = len(head['fc.bias'])
            fc = nn.Linear(self.dims, self.num_classes)
            self.head = nn.ModuleDict(dict(fc=fc))
            state |= {f'head.{name}': x for name, x in head.items()}
        check_fit(
            self.state_dict(),
            state,
            weights.file,
            'only plain ViTs can be converted',
        )
        self.load_state_dict(state)
        self.eval()

    def forward(self, images: Tensor) -> Features:
        """Features of images (B, 3, H, W)."""
        (tokens,) = self.backbone(images)
        if not self.fc_norm and self.head is None:
            return Features(tokens)
        pooled = (
            self.backbone.ln2(tokens[:, 1:].mean(dim=1))
            if self.fc_norm
            else tokens[:, 0]
        )
        if self.head is None:
            return Features(tokens, pooled)
        return Features(tokens, self.head['fc'](pooled))


def released_forward(
    state: StateDict, images: Tensor, num_heads: int
) -> Features:
    """The released encoder and classifier, from tensors by their own names.

    REFERENCE section 8: no norm after the blocks; the classifier reads the
    mean of the patch tokens through fc_norm.
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
