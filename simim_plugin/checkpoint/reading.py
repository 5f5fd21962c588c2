"""Reading files from outside without running code from them."""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..environment import require
from ..errors import SimimError


class CheckpointError(SimimError):
    """A checkpoint that cannot be read, or does not fit the model."""


def _history_method(owner: type, name: str) -> Any:
    """What ``getattr`` may do in a file: name a method of HistoryBuffer."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise CheckpointError(f'getattr({owner}, {name!r}) may run code')
    return getattr(owner, name)


class _History(np.ndarray):
    """An array in a file of ``torch.save``, which may only be filled later.

    Made by a call, it would take the file's bytes for addresses of objects.
    """

    def __new__(cls, *_: object) -> _History:
        raise CheckpointError('ndarray() may run code')

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


def _numeric(code: str, *_: object) -> np.dtype:
    """A dtype of numbers."""
    dtype = np.dtype(code)
    if dtype.kind not in 'biuf':
        raise CheckpointError(f'an array of {code!r} may hold objects')
    return dtype


# What mmengine and the released code store beside tensors. Nothing here runs
# code of the file's choosing. NumPy 2 renamed the module of its arrays.
_CORE = 'core' if np.__version__.startswith('1.') else '_core'
_MULTIARRAY = import_module(f'numpy.{_CORE}.multiarray')
_ALLOWED = [
    argparse.Namespace,
    HistoryBuffer,
    (_history_method, '__builtin__.getattr'),
    (_history_method, 'builtins.getattr'),
    (_numeric, 'numpy.dtype'),
    (_History, 'numpy.ndarray'),
    *(type(np.dtype(kind)) for kind in 'bBhHiIlLqQefd?'),
    *(
        (getattr(_MULTIARRAY, name), f'numpy.{core}.multiarray.{name}')
        for core in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ),
]
_IN_FOLDER = ('model.safetensors', 'pytorch_model.bin')


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running code from it.

    Args:
        path (str | Path): a file that ``torch.save`` wrote, a
            ``.safetensors`` file, a ``.pkl`` file of Detectron2's, or a
            folder of Hugging Face's (its ``config.json`` comes along as
            ``config``).

    Raises:
        CheckpointError: if there is no such file, it is empty or broken, or
            it holds anything but tensors, plain values and what mmengine
            and the released code store beside them.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f'There is no checkpoint file at {path}; check the path.'
        )
    if path.stat().st_size == 0:
        raise CheckpointError(
            f'The checkpoint {path} is an empty file; get it again from its '
            'source.'
        )
    safetensors = path.suffix == '.safetensors'
    if safetensors:
        require('use of safetensors')
    try:
        if safetensors:
            from safetensors.torch import load_file

            content = load_file(path)
        elif path.suffix == '.pkl':
            content = _read_pickle(path)
        else:
            with torch.serialization.safe_globals(_ALLOWED):
                content = torch.load(
                    path, map_location='cpu', weights_only=True
                )
    except Exception as error:
        reason = re.sub(r'\s+', ' ', str(error).rpartition('\n\t')[2])
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


def _read_pickle(path: Path) -> Any:
    """What a ``.pkl`` file of Detectron2's holds, its arrays as tensors."""
    with path.open('rb') as file:
        # The encoding is for arrays that Python 2 wrote.
        return _unwrap(_Unpickler(file, encoding='latin1').load())


class _Unpickler(pickle.Unpickler):
    """Knows containers and numeric arrays, which it lets NumPy make."""

    def find_class(self, module: str, name: str) -> Any:
        """What a file calls by a name."""
        known = _PICKLED.get((module.replace('._core', '.core'), name))
        if known is None:
            raise CheckpointError(f'{module}.{name} may run code')
        return known


class _DType:
    """A dtype in a pickle: numbers only."""

    def __init__(self, code: str, *_: object) -> None:
        self.numpy = _numeric(code)

    def __setstate__(self, state: tuple) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """An array in a pickle, empty until its state comes."""

    tensor: torch.Tensor

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, str):
            data = data.encode('latin1')
        self.tensor = _tensor(data, dtype, shape, 'F' if fortran else 'C')


def _tensor(
    data: bytes, dtype: _DType, shape: tuple[int, ...], order: Any
) -> torch.Tensor:
    values = np.frombuffer(data, dtype.numpy).reshape(shape, order=order)
    native = dtype.numpy.newbyteorder('=')
    return torch.from_numpy(values.astype(native, order='C'))


def _spell(text: str, encoding: str) -> bytes:
    """What ``_codecs.encode`` is for in a pickle: bytes."""
    if encoding != 'latin1':
        raise CheckpointError(f'encoding {encoding!r} may run code')
    return text.encode(encoding)


_PICKLED: dict[tuple[str, str], Callable] = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('_codecs', 'encode'): _spell,
    ('__builtin__', 'bytes'): bytes,
    ('numpy', 'dtype'): _DType,
    ('numpy', 'ndarray'): _Array,
    ('numpy.core.multiarray', '_reconstruct'): _Array,
    ('numpy.core.numeric', '_frombuffer'): _tensor,
}


def _unwrap(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _unwrap(value) for name, value in content.items()}
    return content.tensor if isinstance(content, _Array) else content


def _read_folder(folder: Path) -> dict[str, Any]:
    """The weights and the config of a Hugging Face folder."""
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
