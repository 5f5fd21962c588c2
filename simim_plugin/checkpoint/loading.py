"""Filling models from files: all of an encoder, or a sentence why not.

Shape key: N patches, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from ..errors import SimimError
from .names import (
    OURS,
    UNREAD,
    Format,
    StateDict,
    from_any,
    some,
)
from .reading import CheckpointError, read_checkpoint

_SAME_CONFIG = 'use the config that the checkpoint was made with'
_RESIZE = 'resize_patches=True resizes the patch kernel'
_PATCHES = 'patch_embed.projection.weight'
_BRANCHES = {
    'online': 'online',
    'student': 'online',
    'target': 'target',
    'teacher': 'target',
}
_NORMS = {'ln1': 'final norm', 'ln2': 'fc_norm'}


@dataclass
class Weights:
    """The tensors of a file under our names.

    Args:
        file (str): where they are from.
        form (Format): how they were named there.
        state (dict[str, Tensor]): ``backbone.cls_token`` and so on.
        about (Mapping[str, Any]): what the file says of itself: its
            ``config`` (Hugging Face) or ``meta`` entry.
    """

    file: str
    form: Format
    state: dict[str, Tensor]
    about: Mapping[str, Any]

    def patches(self) -> tuple[int, int]:
        """Width of the encoder, and of its square patches in pixels.

        Raises:
            CheckpointError: if there is no such patch embedding.
        """
        kernel = self.state.get(f'backbone.{_PATCHES}')
        if kernel is None or kernel.ndim != 4:
            found = 'none' if kernel is None else tuple(kernel.shape)
            raise CheckpointError(
                f'The checkpoint {self.file} has no patch embedding '
                f'(backbone.{_PATCHES}) of 2-D images, but {found}; check '
                'which model it is of.'
            )
        return kernel.shape[0], kernel.shape[2]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below ``name``, named from there."""
        return {
            key.removeprefix(f'{name}.'): value
            for key, value in self.state.items()
            if key.startswith(f'{name}.')
        }


def read_weights(
    file: str | Path,
    branch: str = 'online',
    content: Mapping[str, Any] | None = None,
) -> Weights:
    """Read a file of any known format, and name its tensors as we do.

    Args:
        file (str | Path): see :func:`read_checkpoint`.
        branch (str): which encoder is to be ``backbone``, of a file with
            two: 'online' (or 'student'), or 'target' ('teacher'). The other
            is ``target.backbone`` then.
        content (Mapping[str, Any], optional): of the file, if it was read.

    Raises:
        CheckpointError: if the file is unsafe or broken, holds no ViT of a
            known format or not this branch, or a value is not finite.
    """
    if branch not in _BRANCHES:
        raise CheckpointError(
            f'There is no branch {branch!r}; use one of '
            f'{", ".join(_BRANCHES)}.'
        )
    if content is None:
        content = read_checkpoint(file)
    form, state = from_any(content, file)
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    if broken:
        raise CheckpointError(
            f'The checkpoint {file} holds values that are not finite in '
            f'{len(broken)} of {len(state)} tensors ({some(broken)}); the '
            'run that wrote it had failed, take an earlier one.'
        )
    if _BRANCHES[branch] == 'target':
        state = {_swap_branches(name): value for name, value in state.items()}
    about = content.get('config', content.get('meta'))
    about = about if isinstance(about, Mapping) else {}
    if about.get('simim_plugin_final_norm') is False:  # written as 1 and 0
        for name in ('weight', 'bias'):
            state.pop(f'backbone.ln1.{name}', None)
    if not any(name.startswith('backbone.') for name in state):
        raise CheckpointError(
            f'The checkpoint {file} ({form.name}) has no {branch} encoder; '
            'choose the other branch.'
        )
    return Weights(str(file), form, state, about)


def _swap_branches(name: str) -> str:
    if name.startswith(('target.backbone.', 'target.projector.')):
        return name.removeprefix('target.')
    if name.startswith(('backbone.', 'projector.')):
        return f'target.{name}'
    return name


def load_backbone(
    backbone: VisionTransformer,
    file: str | Path,
    *,
    branch: str = 'online',
    resize_patches: bool = False,
    partial: bool = False,
    stays_new: tuple[str, ...] = (),
) -> None:
    """Fill an encoder from a file of any known format, and say what was done.

    Positions of another grid are interpolated (bicubic, the cls token's row
    as it is). A trained norm after the last block is loaded where the
    backbone has one (``final_norm=True``); the norm after the mean of the
    patch tokens stays new unless the file has it.

    Args:
        backbone (VisionTransformer): the encoder to fill.
        file (str | Path): a checkpoint of ours, MMPretrain, the released
            code, timm, Hugging Face (file or folder), MAE, MoCo-v3, DINO,
            iBOT or Detectron2's ViTDet.
        branch (str): 'online' (or 'student'), or 'target' ('teacher').
        resize_patches (bool): whether to resize the patch kernel, bicubic,
            where the file's has another size. Defaults to False.
        partial (bool): whether to leave what is missing, mis-shaped or
            unknown as it is instead of raising. Defaults to False.
        stays_new (tuple[str, ...]): endings of names that a file without
            them leaves as they are. Defaults to none.

    Raises:
        CheckpointError: if the file is unsafe or broken, or any tensor of
            the encoder is missing, mis-shaped or unknown.
    """
    weights = read_weights(file, branch)
    encoder = weights.part('backbone')
    wanted = backbone.state_dict()
    resized, dropped = _adapt(backbone, encoder, weights.form, resize_patches)
    for name in wanted.keys() - encoder.keys():
        if name in ('ln2.weight', 'ln2.bias') or name.endswith(stays_new):
            del wanted[name]
    unknown = {
        f'unknown.{name}': value
        for name, value in weights.part('unknown').items()
    }
    left_out = []
    if partial:
        fitting = {
            name: value
            for name, value in encoder.items()
            if name in wanted and wanted[name].shape == value.shape
        }
        left_out = sorted(wanted.keys() - fitting.keys())
        dropped += ['misfits'] * (len(encoder) - len(fitting) + len(unknown))
        if not fitting:
            raise CheckpointError(
                f'The checkpoint {file} does not fit the model: none of its '
                f'{len(encoder)} encoder tensors does ({some(encoder)}); '
                'check which model it is of.'
            )
        encoder = fitting
    else:
        same_names = encoder.keys() == wanted.keys()
        resizable = same_names and _kernel(encoder) != _kernel(wanted)
        hint = _RESIZE if resizable else _SAME_CONFIG
        check_fit(wanted, {**encoder, **unknown}, file, hint)
    backbone.load_state_dict(encoder, strict=False)
    dropped += _groups(weights, {'backbone', 'unknown'})
    _report(len(encoder), weights, branch, resized, dropped, left_out)


def fill_pretrained(
    backbone: nn.Module, source: str | Mapping[str, Any], **defaults: Any
) -> None:
    """What the ``pretrained`` argument of every backbone does.

    Args:
        backbone (nn.Module): the encoder to fill.
        source (str | Mapping[str, Any]): a file, or arguments of
            :func:`load_backbone` as ``dict(file=..., branch='target')``.
        **defaults: arguments of :func:`load_backbone` that ``source`` may
            override.

    Raises:
        CheckpointError: see :func:`load_backbone`.
    """
    given = source if isinstance(source, Mapping) else dict(file=source)
    load_backbone(backbone, **{**defaults, **given})


def refuse_unpickling(name: str, init_cfg: Any) -> None:
    """Refuse MMEngine's way to load weights, which unpickles the file.

    Args:
        name (str): of the backbone.
        init_cfg (dict | list | None): its argument of this name.

    Raises:
        SimimError: for an ``init_cfg`` of type 'Pretrained'.
    """
    cfgs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    if any(cfg and cfg['type'] == 'Pretrained' for cfg in cfgs):
        raise SimimError(
            f'{name} takes no init_cfg of type Pretrained, which would '
            'unpickle the file; use pretrained=FILE.'
        )


def load_weights(
    model: nn.Module,
    file: str | Path,
    content: Mapping[str, Any] | None = None,
) -> None:
    """Fill every part of a model; drop the parts that it lacks, and say so.

    So a pretraining checkpoint fills a frozen encoder, and a fine-tuned one
    its classifier. Positions and norms are treated as by
    :func:`load_backbone`.

    Args:
        model (nn.Module): a model with a ``backbone``, and perhaps a
            ``head`` and others.
        file (str | Path): see :func:`load_backbone`.
        content (Mapping[str, Any], optional): of the file, if it was read.

    Raises:
        CheckpointError: if the file is unsafe or broken, or any tensor of
            any part of the model is missing, mis-shaped or unknown.
    """
    weights = read_weights(file, content=content)
    weights.state.pop(UNREAD, None)
    wanted = model.state_dict()
    parts = {name.partition('.')[0] for name in wanted} | {'unknown'}
    resized: list[str] = []
    dropped = _groups(weights, parts)
    state = {
        name: value
        for name, value in weights.state.items()
        if name.partition('.')[0] in parts
    }
    backbone: Any = getattr(model, 'backbone', None)
    if hasattr(backbone, 'pos_embed'):
        encoder = weights.part('backbone')
        resized, norms = _adapt(backbone, encoder, weights.form)
        dropped += norms
        state = {
            name: value
            for name, value in state.items()
            if not name.startswith('backbone.')
        }
        state |= {f'backbone.{name}': x for name, x in encoder.items()}
    check_fit(wanted, state, file)
    model.load_state_dict(state)
    _report(len(state), weights, 'online', resized, dropped)


def load_model(model: nn.Module, path: str | Path) -> None:
    """Fill a whole SiameseIM model from a file of ours or a released one.

    Args:
        model (nn.Module): the :class:`SiameseIM` to fill.
        path (str | Path): a checkpoint of this package (``state_dict``) or
            of the released code (``model``).

    Raises:
        CheckpointError: if any tensor is missing, mis-shaped or unknown.
    """
    state = read_weights(path).state
    state.pop(UNREAD, None)
    check_fit(model.state_dict(), state, path)
    model.load_state_dict(state)
    print_log(f'Loaded all {len(state)} tensors of {path}', 'current')


def check_fit(
    wanted: StateDict,
    state: StateDict,
    path: str | Path,
    hint: str = _SAME_CONFIG,
) -> None:
    """Refuse tensors that are not exactly the wanted ones.

    Args:
        wanted (Mapping[str, Tensor]): the state dict of the model.
        state (Mapping[str, Tensor]): what is to fill it.
        path (str | Path): where ``state`` is from.
        hint (str): how to mend it, a clause.

    Raises:
        CheckpointError: naming what is missing, mis-shaped or unknown.
    """
    shared = wanted.keys() & state.keys()
    faults = {
        'missing': wanted.keys() - state.keys(),
        'of another shape': {
            n for n in shared if wanted[n].shape != state[n].shape
        },
        'unknown': state.keys() - wanted.keys(),
    }
    if any(faults.values()):
        listing = '; '.join(
            f'{len(names)} {kind} ({some(sorted(names))})'
            for kind, names in faults.items()
            if names
        )
        raise CheckpointError(
            f'The checkpoint {path} does not fit the model: of '
            f'{len(wanted)} tensors {listing}; {hint}.'
        )


def _adapt(
    backbone: VisionTransformer,
    encoder: dict[str, Tensor],
    form: Format,
    resize_patches: bool = False,
) -> tuple[list[str], list[str]]:
    """Make a file's encoder tensors those of a backbone, in place.

    Returns:
        tuple[list[str], list[str]]: what was resized, from and to; and the
        group of every tensor that was dropped.
    """
    wanted = backbone.state_dict()
    resized, dropped = [], []
    for name in [*encoder]:
        norm = name.partition('.')[0]
        if norm in _NORMS and name not in wanted:
            del encoder[name]
            dropped.append(_NORMS[norm])
    extra = backbone.num_extra_tokens
    table = encoder.get('pos_embed')
    if not extra and encoder.pop('cls_token', None) is not None:
        dropped.append('cls token')
        table = None if table is None else table[:, 1:]
    if table is not None:
        goal = tuple(backbone.patch_resolution)
        side = isqrt(max(0, table.shape[1] - extra))
        square = table.shape[1] == side**2 + extra
        if square and side**2 == goal[0] * goal[1] and form.name == OURS.name:
            # Of our own grid, of the same size, unless it shows another.
            square = _separates(table[0, extra:], side)
        if square and (side, side) != goal:
            table = resize_pos_embed(
                table, (side, side), goal, 'bicubic', extra
            )
            resized.append(f'positions {_change((side, side), goal)}')
        encoder['pos_embed'] = table
    old, new = _kernel(encoder), _kernel(wanted)
    if resize_patches and len(old) == len(new) and old != new:
        kernels = encoder[_PATCHES].float()  # (C, 3, H, W)
        encoder[_PATCHES] = F.interpolate(kernels, new, mode='bicubic')
        resized.append(f'patch kernel {_change(old, new)}')
    return resized, dropped


def _separates(table: Tensor, side: int) -> bool:
    """Whether positions (N, C) are the fixed sin-cos ones of a square grid.

    In their first half all columns are alike, in the second all rows.
    """
    rows, cols = table.unflatten(0, (side, side)).chunk(2, dim=-1)
    return torch.equal(rows, rows[:, :1].expand_as(rows)) and torch.equal(
        cols, cols[:1].expand_as(cols)
    )


def _kernel(state: StateDict) -> tuple[int, ...]:
    """Height and width of the patches, pixels; nothing if they have none."""
    return tuple(state[_PATCHES].shape[2:]) if _PATCHES in state else ()


def _change(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    return ' -> '.join('x'.join(map(str, size)) for size in (old, new))


def _groups(weights: Weights, kept: set[str]) -> list[str]:
    """The group of every tensor outside the kept groups."""
    groups = [name.partition('.')[0] for name in weights.state]
    return [group for group in groups if group not in kept]


def _report(
    loaded: int,
    weights: Weights,
    branch: str,
    resized: list[str],
    dropped: list[str],
    left_out: list[str] | None = None,
) -> None:
    """Print the one line that says what became of a file's tensors."""
    said = (
        f'Loaded {loaded} tensors of {weights.file} ({weights.form.name} '
        f'names, {branch} branch)'
    )
    if resized:
        said += f'; interpolated: {", ".join(resized)}'
    if dropped:
        counts = Counter(dropped).items()
        groups = ', '.join(f'{group} {count}' for group, count in counts)
        said += f'; dropped: {groups}'
    if 'final norm' in dropped:
        said += ' (final_norm=True keeps the final norm)'
    if left_out:
        said += f'; NOT filled: {len(left_out)} ({some(left_out)})'
    print_log(said, 'current')
