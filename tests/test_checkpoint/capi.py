"""CAPI's encoder, computed directly from its tensors."""

from math import pi

import torch
import torch.nn.functional as F
from torch import nn


class Capi(nn.Module):
    """Its tensors have the names of the authors' files.

    RMSNorm with eps 1e-5, no biases but that of the patches, 16 registers on
    the edge of the image, and in each block a table of angular frequencies.
    """

    def __init__(self, img_size, patch_size, embed_dim, depth, num_heads, **_):
        super().__init__()
        self.size, self.patch, self.heads = img_size, patch_size, num_heads
        self.registers = nn.Parameter(torch.zeros(1, 16, embed_dim))
        self.patch_embed = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        dims, wide = embed_dim, 4 * embed_dim
        shapes = {
            'residual1.norm.weight': (dims,),
            'residual2.norm.weight': (dims,),
            'residual1.fn.rope.freqs': (2, dims // num_heads),
            'residual2.fn.fc1.weight': (wide, dims),
            'residual2.fn.fc2.weight': (dims, wide),
        }
        for name in ('q_proj', 'k_proj', 'v_proj', 'proj'):
            shapes[f'residual1.fn.{name}.weight'] = (dims, dims)
        self.depth = depth
        self.encoder = nn.Module()
        self.encoder.blocks = nn.ModuleList(nn.Module() for _ in range(depth))
        for block in self.encoder.blocks:
            for name, shape in shapes.items():
                _place(block, name.split('.'), nn.Parameter(torch.ones(shape)))

    def forward_features(self, images, visible=None):
        """Return registers and patches (B, 16 + V, C)."""
        rows, columns = (n // self.patch for n in images.shape[2:])
        patches = self.patch_embed(images).flatten(2).mT
        places = torch.tensor(
            [
                [row / max(1, rows - 1), column / max(1, columns - 1)]
                for row in range(rows)
                for column in range(columns)
            ]
        ).expand(len(images), -1, -1)
        if visible is not None:
            patches, places = (
                x.take_along_dim(visible[..., None], dim=1)
                for x in (patches, places)
            )
        first, last = places.amin(1)[:, None], places.amax(1)[:, None]
        edge = torch.tensor(
            [(k / 4, 0) for k in range(4)]
            + [(1, k / 4) for k in range(4)]
            + [(1 - k / 4, 1) for k in range(4)]
            + [(0, 1 - k / 4) for k in range(4)]
        )
        places = torch.cat([first + edge * (last - first), places], dim=1)
        registers = self.registers.expand(len(images), -1, -1)
        tokens = torch.cat([registers, patches], dim=1)
        state = self.state_dict()
        for k in range(self.depth):
            tokens = self._block(tokens, places, state, f'encoder.blocks.{k}.')
        return _rms(tokens)

    def _block(self, tokens, places, state, block):
        def linear(x, name):
            return x @ state[f'{block}{name}.weight'].T

        normed = _rms(tokens) * state[f'{block}residual1.norm.weight']
        angles = torch.einsum(
            'btk,kd->btd', places, state[f'{block}residual1.fn.rope.freqs']
        )[:, None]
        query, key, value = (
            linear(normed, f'residual1.fn.{name}_proj')
            .unflatten(2, (self.heads, -1))
            .transpose(1, 2)
            for name in 'qkv'
        )
        half = query.shape[-1] // 2
        query, key = (
            x * angles.cos()
            + torch.cat([-x[..., half:], x[..., :half]], -1) * angles.sin()
            for x in (query, key)
        )
        weights = (query @ key.mT / (2 * half) ** 0.5).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        tokens = tokens + linear(mixed, 'residual1.fn.proj')
        normed = _rms(tokens) * state[f'{block}residual2.norm.weight']
        hidden = F.gelu(linear(normed, 'residual2.fn.fc1'))
        return tokens + linear(hidden, 'residual2.fn.fc2')


def frequencies(dims):
    """Return those at the start: 7 to 7e-4 turns, rows before columns."""
    turns = [7 * 1e4 ** (-k / (dims // 4 - 1)) for k in range(dims // 4)]
    zeros = [0.0] * (dims // 2)
    return 2 * pi * torch.tensor([turns * 2 + zeros, zeros + turns * 2])


def _rms(tokens):
    return tokens / (tokens.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def _place(module, path, parameter):
    for name in path[:-1]:
        if not hasattr(module, name):
            module.add_module(name, nn.Module())
        module = getattr(module, name)
    module.register_parameter(path[-1], parameter)
