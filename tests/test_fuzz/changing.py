"""Change the content of files: parts of JSON, and tensors with their names."""

import copy
import json
from random import Random
from typing import Any

import torch

ARCH = dict(embed_dims=16, num_layers=2, num_heads=4, feedforward_channels=64)
"""The sizes of the encoders."""

ODD = [
    None,
    True,
    -1,
    0,
    1,
    1.5,
    2**63,
    10**400,
    1e308,
    float('nan'),
    float('inf'),
    '',
    'x',
    '12',
    '../x',
    'a\n\x1b[31mb',
    [],
    {},
    [[]],
    {'a': 1},
    [1, 'x', None],
]
"""Values of any kind in the place of another."""


def odd(draw: Random) -> Any:
    """Return an odd value, now and then one that is nested deeply."""
    if draw.random() < 0.03:
        value: Any = []
        for _ in range(draw.choice([10, 200])):
            value = [value] if draw.random() < 0.5 else {'a': value}
        return value
    return copy.deepcopy(draw.choice(ODD))


def changed(content: Any, draw: Random) -> Any:
    """Return nested lists and dicts with some parts changed."""
    content = copy.deepcopy(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        places = [*_places(content)]
        if not places:
            return odd(draw)
        inside, key = draw.choice(places)
        match draw.randrange(6):
            case 0:
                del inside[key]
            case 1:
                _, other = places[draw.randrange(len(places))]
                box, where = draw.choice(places)
                if other == where and where in _keys(box):
                    inside[key] = copy.deepcopy(box[where])
            case 2 if isinstance(inside, list):
                inside.insert(key, copy.deepcopy(inside[key]))
            case _:
                inside[key] = odd(draw)
    return content


def _keys(inside: Any) -> Any:
    return inside if isinstance(inside, dict) else range(len(inside))


def _places(content: Any):
    """Yield each container and each key in it."""
    if isinstance(content, dict | list):
        for key in _keys(content):
            yield content, key
            yield from _places(content[key])


def as_json(content: Any, draw: Random) -> bytes:
    """Return JSON, now and then with some bytes changed or cut off."""
    data = bytearray(json.dumps(content).encode())
    match draw.randrange(8):
        case 0:
            data[draw.randrange(len(data))] = draw.randrange(256)
        case 1:
            del data[draw.randrange(len(data)) :]
        case 2 if draw.random() < 0.05:
            data = bytearray(b'[' * 100_000)
    return bytes(data)


def changed_tensor(value: torch.Tensor, draw: Random) -> Any:
    """Return another shape, dtype or kind of value."""
    match draw.randrange(12):
        case 0:
            return value.flatten()
        case 1:
            return value[None]
        case 2:
            return value[:0]
        case 3:
            return value[:1]
        case 4:
            return torch.cat([value, value])
        case 5:
            return value.mean()
        case 6:
            dtypes = [torch.bool, torch.int8, torch.float16, torch.complex64]
            return value.to(draw.choice(dtypes))
        case 7:
            return value * float('nan')
        case 8:
            return value.transpose(0, -1).contiguous()
        case 9:
            return value[..., :1]
        case 10:
            return value.reshape(*value.shape, 1, 1)
        case _:
            return odd(draw)


def changed_state(state: dict[str, Any], draw: Random) -> dict[Any, Any]:
    """Return tensors of which some have another name, shape or value."""
    state = dict(state)
    for _ in range(draw.choice([1, 1, 2, 4])):
        name = draw.choice([*state])
        value = state[name]
        match draw.randrange(6):
            case 0:
                del state[name]
            case 1:  # all of that kind, in all blocks
                end = name.rpartition('.')[2]
                for other in [n for n in state if n.endswith(end)]:
                    del state[other]
            case 2:
                parts = name.split('.')
                place = draw.randrange(len(parts))
                parts[place : place + 1] = draw.choice(
                    [[], ['x'], ['1'], parts[place : place + 1] * 2, ['99']]
                )
                state['.'.join(parts)] = state.pop(name)
            case 3:
                state[draw.choice(EXTRA)] = value
            case _ if isinstance(value, torch.Tensor) and value.ndim:
                state[name] = changed_tensor(value, draw)
        if not state:
            break
    return state


EXTRA = [
    'cls_token',
    'pos_embed',
    'mask_token',
    'mm_cls_token',
    'decoder_embed.weight',
    'norm.weight',
    'fc_norm.weight',
    'head.weight',
    'reg_token',
    'dist_token',
    'blocks.0.attn.q_bias',
    'blocks.0.attn.qkv.bias_mask',
    'blocks.0.attn.relative_position_bias_table',
    'blocks.0.attn.q_norm.weight',
    'blocks.0.mlp.norm.weight',
    'blocks.0.mlp.fc1_g.weight',
    'blocks.0.mlp.fc1_x.weight',
    'blocks.x.attn.proj.weight',
    'blocks.0.0.attn.proj.weight',
    'rel_pos_bias.relative_position_bias_table',
    'encoder.layer.0.attention.attention.query.bias',
    'layers.0.attention.key.weight',
    'backbone.pos_embed',
    'backbone.layers.0.attn.qkv.bias',
    'student.backbone.patch_embed.proj.weight',
    'teacher.backbone.cls_token',
    'target.backbone.cls_token',
    'projector.fc0.weight',
    'module.patch_embed.proj.weight',
    'ln_pre.weight',
    'positional_embedding',
    'visual.conv1.weight',
    'attn.in_proj_weight',
]
"""Names that change what a file is taken for."""
