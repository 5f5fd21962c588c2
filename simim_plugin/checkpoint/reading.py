"""Read files of unknown origin without running code from them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..environment import require
from .unpickling import CheckpointError, load_pickle, load_torch

_IN_FOLDER = ('model.safetensors', 'pytorch_model.bin')


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running code from it.

    Args:
        path (str | Path): a ``torch.save`` file, a ``.safetensors`` file, a
            ``.pkl`` file of Detectron2, or a Hugging Face folder, whose
            ``config.json`` is returned as ``config``.

    Raises:
        CheckpointError: if there is no such file, it is empty or broken, or
            it holds anything but tensors, plain values and what mmengine
            and the released code store beside them.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _read_folder(path)
    if not os.path.isfile(path):
        raise CheckpointError(
            f'There is no checkpoint file at {path}; check the path.'
        )
    if path.stat().st_size == 0:
        raise CheckpointError(
            f'The checkpoint {path} is an empty file; get it again from its '
            'source.'
        )
    if path.suffix == '.safetensors':
        require('use of safetensors')
    try:
        content = _read_file(path)
    except Exception as error:
        reason = re.sub(r'\s+', ' ', str(error))
        reason = reason.split('. ')[0][:200]
        raise CheckpointError(
            f'Cannot read the checkpoint {path}: it is truncated, of another '
            f'format, or holds objects that may run code ({reason}); get the '
            'file again from its source.'
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'The checkpoint {path} holds a {type(content).__name__}, not a '
            'dict of tensors; get the file again from its source.'
        )
    return content


def _read_file(path: Path) -> Any:
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix == '.pkl':
        return _as_tensors(load_pickle(path))
    return load_torch(path)


def _as_tensors(content: Any) -> Any:
    """Convert Detectron2's arrays to tensors."""
    if isinstance(content, dict):
        return {name: _as_tensors(value) for name, value in content.items()}
    if isinstance(content, np.ndarray):
        native = content.dtype.newbyteorder('=')
        return torch.from_numpy(np.array(content, native, order='C'))
    return content


def _read_folder(folder: Path) -> dict[str, Any]:
    """Read the weights and the config of a Hugging Face folder."""
    for name in _IN_FOLDER:
        if (folder / name).is_file():
            content = {'state_dict': read_checkpoint(folder / name)}
            break
    else:
        raise CheckpointError(
            f'{folder} is a folder without {" or ".join(_IN_FOLDER)}; pass '
            'a checkpoint file, or a folder that Hugging Face wrote.'
        )
    config = folder / 'config.json'
    if config.is_file():
        try:
            content['config'] = dict(json.loads(config.read_text()))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f'{config} is no JSON object ({error}); get the folder '
                'again from its source.'
            ) from error
    return content
