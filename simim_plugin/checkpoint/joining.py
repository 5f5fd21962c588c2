"""Bring the tensors of an encoder to one form, before and after renaming.

Libraries split and stack the same maps in different ways.

Shape key: N patches, C channels, F hidden channels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from math import isqrt

import torch
from torch import Tensor

StateDict = Mapping[str, Tensor]

_PROJECTIONS = ('q_proj', 'k_proj', 'v_proj')
_QUERY = re.compile(r'^(?P<start>.*\.)(?:query|q_proj)\.(?P<end>\w+)$')
_QUERY_BIAS = re.compile(r'^(?P<start>.*\.)q_bias$')
_GATES = (
    ('.mlp.gate_proj.', '.mlp.up_proj.', '.mlp.down_proj.'),
    ('.mlp.fc1_g.', '.mlp.fc1_x.', '.mlp.fc2.'),
    ('.mlp.w1.', '.mlp.w2.', '.mlp.w3.'),
)
"""The gate, the value and the output of SwiGLU: DINOv3 at Hugging Face, in
timm and of its authors."""
_FIXED = re.compile(
    r'(?:relative_position_index|position_ids|bias_mask|rope_embed\.periods'
    r'|rope\.periods|rope\.freqs_(?:cos|sin))$'
)
"""Buffers that follow from the shapes."""


def without_fixed(state: StateDict) -> dict[str, Tensor]:
    """Leave out the buffers that follow from the shapes of a model."""
    return {
        name: value for name, value in state.items() if not _FIXED.search(name)
    }


def own_tensors(state: StateDict) -> dict[str, Tensor]:
    """Return plain tensors that share no memory, for a file."""
    return {name: x.detach().clone().contiguous() for name, x in state.items()}


def join_parts(state: StateDict) -> dict[str, Tensor]:
    """Stack query, key and value, and the gate and the value of SwiGLU.

    A bias that only some of them have is zero for the others. Buffers that
    follow from the shapes are left out.

    Args:
        state (Mapping[str, Tensor]): under the names of the file.
    """
    state = {_eva02_name(name): x for name, x in state.items()}
    joined = without_fixed(state)
    for name in state:
        if found := _QUERY.match(name):
            _join_query(joined, found['start'], found['end'])
        elif found := _QUERY_BIAS.match(name):
            _join_biases(joined, found['start'])
        for gate, value, out in _GATES:
            parts = [name, name.replace(gate, value)]
            if gate in name and parts[1] in joined:
                kind = name.rpartition('.')[2]
                block = name.partition(gate)[0]
                if not _stack(joined, parts, f'{block}.mlp.w12.{kind}'):
                    continue
                last = f'{block}{out}{kind}'
                if last in joined:
                    joined[f'{block}.mlp.w3.{kind}'] = joined.pop(last)
    for name in state:
        if name.endswith('.qkv.bias_mask'):  # the key has no bias
            bias = name.removesuffix('_mask')
            if bias in joined:
                joined[bias] = _without_key(joined[bias])
    _unpack_swiglu(joined)
    return joined


def _eva02_name(name: str) -> str:
    """Give the norms in the blocks of EVA-02 the names of timm."""
    name = name.replace('.mlp.ffn_ln.', '.mlp.norm.')
    return name.replace('.attn.inner_attn_ln.', '.attn.norm.')


def _join_query(joined: dict[str, Tensor], start: str, end: str) -> None:
    """Stack one kind of tensor of query, key and value, in place."""
    old = 'query' if f'{start}query.{end}' in joined else 'q_proj'
    names = ('query', 'key', 'value') if old == 'query' else _PROJECTIONS
    parts = [f'{start}{name}.{end}' for name in names]
    _stack(joined, parts, f'{start}qkv.{end}', fill=end == 'bias')


def _join_biases(joined: dict[str, Tensor], start: str) -> None:
    """Stack the biases of query and value, of BEiT and EVA, in place."""
    parts = [f'{start}{part}_bias' for part in 'qkv']
    if parts[2] in joined:
        _stack(joined, parts, f'{start}qkv.bias', fill=True)


def _stack(
    joined: dict[str, Tensor], parts: list[str], goal: str, fill: bool = False
) -> bool:
    """Stack tensors in place, unless they are missing or do not fit.

    Those that stay are of no name that a ViT has, so that filling refuses
    them.

    Args:
        joined (dict[str, Tensor]): under the names of the file.
        parts (list[str]): names of tensors.
        goal (str): name of the stack.
        fill (bool): take zeros for missing ones. Defaults to False.
    """
    known = next((joined[name] for name in parts if name in joined), None)
    if known is None:
        return False
    if fill:
        zeros = torch.zeros_like(known)
        tensors = [joined.get(name, zeros) for name in parts]
    elif joined.keys() >= {*parts}:
        tensors = [joined[name] for name in parts]
    else:
        return False
    if known.ndim == 0 or any(
        part.shape[1:] != known.shape[1:] or part.ndim != known.ndim
        for part in tensors
    ):
        return False
    joined[goal] = torch.cat(tensors)
    for name in parts:
        joined.pop(name, None)
    return True


def _without_key(bias: Tensor) -> Tensor:
    if bias.ndim != 1 or len(bias) % 3:
        return bias
    query, key, value = bias.chunk(3)
    return torch.cat([query, torch.zeros_like(key), value])


def _unpack_swiglu(joined: dict[str, Tensor]) -> None:
    """Rename the packed maps of timm's SwiGLU, in place.

    Their first map is twice as wide as the second one expects.
    """
    for name in [*joined]:
        if not name.endswith('.mlp.fc1.weight'):
            continue
        block = name.removesuffix('.fc1.weight')
        first, second = joined[name], joined.get(f'{block}.fc2.weight')
        if second is None or first.ndim != 2 or second.ndim != 2:
            continue
        if len(first) != 2 * second.shape[1]:
            continue
        for old, new in (('fc1', 'w12'), ('fc2', 'w3')):
            for kind in ('weight', 'bias'):
                if f'{block}.{old}.{kind}' in joined:
                    joined[f'{block}.{new}.{kind}'] = joined.pop(
                        f'{block}.{old}.{kind}'
                    )


_SHAPES: tuple[tuple[re.Pattern[str], int | None], ...] = (
    (re.compile(r'patch_embed\.projection\.weight$'), None),  # or of video
    (re.compile(r'(?:cls_token|registers|distilled|pos_embed)$'), 3),
    (re.compile(r'layers\.\d+\.(?:attn\.(?:qkv|proj)|ffn\..*)\.weight$'), 2),
    (re.compile(r'layers\.\d+\.attn\.(?:bias_table|frequencies)$'), 2),
    (re.compile(r'(?:bias|norm\.weight|ln\d\.weight|gamma\d\.weight)$'), 1),
)
"""Names of tensors in an encoder, and their number of dimensions."""


def misshapen(state: StateDict) -> list[str]:
    """Describe tensors whose shape or type no ViT has.

    Args:
        state (Mapping[str, Tensor]): under our names.
    """
    wrong = []
    for name, value in state.items():
        _, found, inside = name.rpartition('backbone.')
        if not found:
            continue
        kinds = [ndim for known, ndim in _SHAPES if known.search(inside)]
        if kinds and (
            kinds[-1] not in (None, value.ndim)
            or not value.is_floating_point()
            or not value.numel()
        ):
            shape = 'x'.join(map(str, value.shape)) or 'a number'
            kind = str(value.dtype).removeprefix('torch.')
            wrong.append(f'{name}: {shape} of {kind}')
    return wrong


def place_tokens(state: dict[str, Tensor]) -> None:
    """Bring tokens and positions of the encoders to our form, in place.

    The table gets a row for the cls token if there is one, and none for other
    extra tokens, whose positions are added to them.

    Args:
        state (dict[str, Tensor]): under our names.
    """
    for prefix in ('backbone.', 'target.backbone.'):
        own = {
            name: state.pop(f'{prefix}{name}')
            for name in ('cls_token', 'registers', 'distilled', 'pos_embed')
            if f'{prefix}{name}' in state
        }
        for name in own:
            while own[name].ndim < 3:
                own[name] = own[name][None]
        if 'registers' in own and not own['registers'].shape[1]:
            del own['registers']
        _share_bias(state, prefix)
        if 'pos_embed' in own:
            own['pos_embed'] = _with_cls_row(own)
        if 'distilled' in own:
            own['registers'] = own.pop('distilled')
        state |= {f'{prefix}{name}': value for name, value in own.items()}


def _with_cls_row(own: dict[str, Tensor]) -> Tensor:
    """Return the table with a row for the cls token if there is one."""
    table = own['pos_embed']
    rows, cls = table.shape[1], 'cls_token' in own
    if 'distilled' in own and own['distilled'].shape[-1:] == table.shape[-1:]:
        own['distilled'] = own['distilled'] + table[:, 1:2]
        return torch.cat([table[:, :1], table[:, 2:]], dim=1)
    square = isqrt(rows) ** 2 == rows and rows > 1
    if cls and square:  # timm leaves that row out (no_embed_class)
        return torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    return table


def add_biases(state: dict[str, Tensor]) -> None:
    """Give the linear maps of blocks that have none biases of 0, in place.

    Args:
        state (dict[str, Tensor]): under our names.
    """
    for name in [*state]:
        # Tensors of another shape are refused later.
        if _UNBIASED.search(name) and state[name].ndim == 2:
            bias = f'{name.removesuffix("weight")}bias'
            state.setdefault(bias, torch.zeros_like(state[name][:, 0]))


_UNBIASED = re.compile(
    r'layers\.\d+\.(?:attn\.proj|ffn\.layers\.(?:0\.0|1))\.weight$'
)


def _share_bias(state: dict[str, Tensor], prefix: str) -> None:
    """Give every block the bias table that BEiT's pretraining shares."""
    table = state.pop(f'{prefix}shared_bias_table', None)
    if table is None:
        return
    for block in {*blocks_of(state, prefix)}:
        state[f'{prefix}layers.{block}.attn.bias_table'] = table.clone()


def blocks_of(state: Iterable[str], prefix: str) -> Iterator[str]:
    """Yield the number of the block of each tensor in one."""
    start = f'{prefix}layers.'
    for name in state:
        if name.startswith(start):
            yield name.removeprefix(start).partition('.')[0]
