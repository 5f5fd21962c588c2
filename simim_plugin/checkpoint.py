"""Weights in and out: reading files safely, and the names they use.

The released code and this package name the same tensors differently.
:func:`from_official` and :func:`to_official` rename between the two,
:func:`load_model` fills a whole model and refuses a partial match.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor, nn

from .errors import SimimError

StateDict = Mapping[str, Tensor]

# Official name, name here. A name is renamed by the first row it begins
# with, and inside transformer blocks by _BLOCK_NAMES.
_MODULE_NAMES = (
    ('cls_token', 'backbone.cls_token'),
    ('pos_embed', 'backbone.pos_embed'),
    ('patch_embed.proj.', 'backbone.patch_embed.projection.'),
    ('blocks.', 'backbone.layers.'),
    ('decoder_embed.', 'projector.embed.'),
    ('projector_decoder_blocks.', 'projector.layers.'),
    ('mask_token', 'neck.mask_token'),
    ('decoder_pos_embed', 'neck.pos_embed'),
    ('decoder_pos_mlp.', 'neck.relative_map.'),
    ('predictor_decoder_blocks.', 'neck.layers.'),
    ('decoder_pred.', 'neck.predict.'),
    ('mm_cls_token', 'target.backbone.cls_token'),
    ('mm_patch_embed.proj.', 'target.backbone.patch_embed.projection.'),
    ('mm_blocks.', 'target.backbone.layers.'),
    ('mm_decoder_embed.', 'target.projector.embed.'),
    ('mm_projector_decoder_blocks.', 'target.projector.layers.'),
    ('mm_mask_token', 'target.mask_token'),
)
_BLOCK_NAMES = (
    ('.norm1.', '.ln1.'),
    ('.norm2.', '.ln2.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
)
# The released code averages a mask token that nothing reads, and shares one
# position table between the branches where we hold it twice.
_UNREAD = 'target.mask_token'
_SHARED = 'target.backbone.pos_embed'


class CheckpointError(SimimError):
    """A checkpoint that cannot be read, or does not fit the model."""


def from_official(state: StateDict) -> dict[str, Tensor]:
    """Rename the released code's pretraining tensors to ours.

    Args:
        state (Mapping[str, Tensor]): the ``model`` entry of a released
            checkpoint.

    Raises:
        CheckpointError: for a name that the released code does not use.
    """
    renamed = {_rename(name, 0, 1): value for name, value in state.items()}
    if 'backbone.pos_embed' in renamed:
        renamed[_SHARED] = renamed['backbone.pos_embed']
    return renamed


def to_official(state: StateDict) -> dict[str, Tensor]:
    """Rename our pretraining tensors to the released code's names.

    Args:
        state (Mapping[str, Tensor]): the state dict of a :class:`SiameseIM`.

    Raises:
        CheckpointError: for a name that is not part of a SiameseIM model.
    """
    state = {name: value for name, value in state.items() if name != _SHARED}
    if 'neck.mask_token' in state:
        state.setdefault(_UNREAD, state['neck.mask_token'])
    return {_rename(name, 1, 0): value for name, value in state.items()}


def _rename(name: str, source: int, goal: int) -> str:
    for row in _MODULE_NAMES:
        if name.startswith(row[source]):
            name = row[goal] + name.removeprefix(row[source])
            for block_row in _BLOCK_NAMES:
                name = name.replace(block_row[source], block_row[goal])
            return name
    raise CheckpointError(
        f'Cannot rename the tensor {name!r}: it is not part of a SiameseIM '
        'pretraining model; check where the checkpoint comes from.'
    )


def _history_method(owner: type, name: str) -> Any:
    """What ``getattr`` may do in a file: name a method of HistoryBuffer."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise CheckpointError(f'getattr({owner}, {name!r}) may run code')
    return getattr(owner, name)


# What mmengine and the released code store beside tensors. Nothing here runs
# code of the file's choosing. NumPy 2 renamed the module of its arrays.
_CORE = 'core' if np.__version__.startswith('1.') else '_core'
_MULTIARRAY = import_module(f'numpy.{_CORE}.multiarray')
_ALLOWED = [
    argparse.Namespace,
    HistoryBuffer,
    (_history_method, '__builtin__.getattr'),
    (_history_method, 'builtins.getattr'),
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in 'bBhHiIlLqQefd?'),
    *(
        (getattr(_MULTIARRAY, name), f'numpy.{core}.multiarray.{name}')
        for core in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ),
]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU without running code from it.

    Args:
        path (str | Path): a file that ``torch.save`` wrote.

    Raises:
        CheckpointError: if there is no such file, it is broken, or it holds
            anything but tensors, plain values and what mmengine and the
            released code store beside them.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f'There is no checkpoint file at {path}; check the path.'
        )
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        reason = re.sub(r'\s+', ' ', str(error).rpartition('\n\t')[2])[:200]
        raise CheckpointError(
            f'Cannot read the checkpoint {path}: it is truncated, no PyTorch '
            f'file, or holds objects that may run code ({reason}); get the '
            'file again from its source.'
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'The checkpoint {path} holds a {type(content).__name__}, not a '
            'dict of tensors; get the file again from its source.'
        )
    return content


def load_model(model: nn.Module, path: str | Path) -> None:
    """Fill a whole SiameseIM model from a file of ours or a released one.

    Args:
        model (nn.Module): the :class:`SiameseIM` to fill.
        path (str | Path): a checkpoint of this package (``state_dict``) or
            of the released code (``model``).

    Raises:
        CheckpointError: if any tensor is missing, mis-shaped or unknown.
    """
    content = read_checkpoint(path)
    if 'state_dict' in content:
        state = dict(content['state_dict'])
    elif 'model' in content:
        state = from_official(content['model'])
    else:
        raise CheckpointError(
            f'The checkpoint {path} has neither a `state_dict` (this '
            'package) nor a `model` entry (the released code) but '
            f'{_some(content)}; it is no SiameseIM pretraining checkpoint.'
        )
    state.pop(_UNREAD, None)
    check_fit(model, state, path)
    model.load_state_dict(state)
    print_log(f'Loaded all {len(state)} tensors of {path}', 'current')


def check_fit(model: nn.Module, state: StateDict, path: str | Path) -> None:
    """Refuse tensors that do not fill ``model`` exactly.

    Raises:
        CheckpointError: naming what is missing, mis-shaped or unknown.
    """
    wanted = model.state_dict()
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
            f'{len(names)} {kind} ({_some(sorted(names))})'
            for kind, names in faults.items()
            if names
        )
        raise CheckpointError(
            f'The checkpoint {path} does not fit the model: of '
            f'{len(wanted)} tensors {listing}; use the config that the '
            'checkpoint was made with.'
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
