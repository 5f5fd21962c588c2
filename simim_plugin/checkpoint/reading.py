"""Read files of unknown origin without running code from them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..environment import require
from .limits import CheckpointError
from .preprocessing import WEIGHT_FILES, beside, read_json
from .torch_files import load_pickle, load_torch
from .unpickling import UnknownObject


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running code from it.

    Args:
        path (str | Path): a ``torch.save`` file, a ``.safetensors`` file, a
            ``.pkl`` file of Detectron2, or a Hugging Face folder, whose
            ``config.json`` is returned as ``config``, and whose
            ``preprocessor_config.json`` as ``preprocessor``.

    Raises:
        CheckpointError: if there is no such file, it is empty or broken, or
            it holds calls of unknown functions. Objects of other classes
            are left out.
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
    if isinstance(content, UnknownObject):
        raise inside_object(path, content)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'The checkpoint {path} holds a {type(content).__name__}, not a '
            'dict of tensors; get the file again from its source.'
        )
    return content


def inside_object(
    file: str | Path, unknown: UnknownObject, entry: str = ''
) -> CheckpointError:
    """Return the error of a file whose weights are inside an object.

    Args:
        file (str | Path): the file.
        unknown (UnknownObject): stands for the object.
        entry (str): its place in the file. Defaults to '', the whole file.
    """
    place = f' in its entry {entry!r}' if entry else ''
    return CheckpointError(
        f'The checkpoint {file} holds an object of '
        f'{unknown.name[:80]}{place}, '
        'which is not read, since that may run code; save its state_dict() '
        'where you trust the file.'
    )


def _read_file(path: Path) -> Any:
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file

        return load_file(path)
    if path.suffix == '.pkl':
        with path.open('rb') as file:
            return _as_tensors(load_pickle(file), {})
    return load_torch(path)


def _as_tensors(content: Any, made: dict[int, torch.Tensor]) -> Any:
    """Convert Detectron2's arrays to tensors, each once."""
    if isinstance(content, dict):
        return {name: _as_tensors(x, made) for name, x in content.items()}
    if not isinstance(content, np.ndarray):
        return content
    if id(content) not in made:
        native = np.array(content, content.dtype.newbyteorder('='), order='C')
        made[id(content)] = torch.from_numpy(native)
    return made[id(content)]


def _read_folder(folder: Path) -> dict[str, Any]:
    """Read the weights and the config of a Hugging Face folder."""
    for name in WEIGHT_FILES:
        index = folder / f'{name}.index.json'
        if (folder / name).is_file():
            state = read_checkpoint(folder / name)
            break
        if index.is_file():
            state = _read_shards(index)
            break
    else:
        raise CheckpointError(
            f'{folder} is a folder without {" or ".join(WEIGHT_FILES)}; pass '
            'a checkpoint file, or a folder that Hugging Face wrote.'
        )
    return dict(state_dict=state, **beside(folder / WEIGHT_FILES[0]))


def _read_shards(index: Path) -> dict[str, Any]:
    """Read the files that an index names, each once."""
    places = read_json(index).get('weight_map')
    if not isinstance(places, dict) or not places:
        raise CheckpointError(
            f'{index} has no weight_map; get the folder again from its source.'
        )
    shards = {}
    for name in sorted({*map(str, places.values())}):
        if Path(name).name != name or os.path.isdir(index.parent / name):
            raise CheckpointError(
                f'{index} names {name[:80]!r}, which is no file in its '
                'folder; get the folder again from its source.'
            )
        shards[name] = read_checkpoint(index.parent / name)
    missing = [t for t, name in places.items() if t not in shards[str(name)]]
    if missing:
        raise CheckpointError(
            f'{index} names {len(missing)} tensors that its files lack '
            f'({missing[0]}); get the folder again from its source.'
        )
    return {
        tensor: shards[str(name)][tensor] for tensor, name in places.items()
    }
