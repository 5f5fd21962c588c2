"""Unpickling by an allow-list, and torch's file formats on top of it.

``torch.load`` is never called on a file from outside: its own allow-list can
be extended only since torch 2.5, and until 2.6 it runs TorchScript and
unpacks tar archives even with ``weights_only=True``. What a file names is
looked up in a table here; nothing of the table runs code of the file's
choosing, and a file can change none of it: bound methods and built-in types
take no attributes, and the classes of ours define ``__setstate__``.
"""

from __future__ import annotations

import argparse
import pickle
import re
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..errors import SimimError

Storage = Callable[[torch.dtype, str, int], torch.Tensor]


class CheckpointError(SimimError):
    """A checkpoint that cannot be read, or does not fit the model."""


def load_torch(path: Path) -> Any:
    """What a file of ``torch.save``'s holds, in either of its formats."""
    with path.open('rb') as file:
        if file.read(4) == b'PK\x03\x04':
            return _load_zip(file)
        file.seek(0)
        return _load_stream(file)


def load_pickle(path: Path) -> Any:
    """What a pickle holds that is not torch's."""
    with path.open('rb') as file:
        return _Unpickler(file).load()


def _load_zip(file: IO[bytes]) -> Any:
    """The format since torch 1.6: one member for each storage."""
    with zipfile.ZipFile(file) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('/data.pkl'))
        folder = name.removesuffix('data.pkl')
        order = f'{folder}byteorder'
        if (
            order in archive.namelist()
            and archive.read(order).decode() != sys.byteorder
        ):
            raise CheckpointError('it has the byte order of another machine')

        @cache
        def storage(dtype: torch.dtype, key: str, count: int) -> torch.Tensor:
            with archive.open(f'{folder}data/{key}') as member:
                return _fill(torch.empty(count, dtype=dtype), member)

        with archive.open(name) as pickled:
            return _Unpickler(pickled, storage).load()


def _load_stream(file: IO[bytes]) -> Any:
    """The format before: five pickles, then the storages in a row."""
    magic, version, _ = (_Unpickler(file).load() for _ in range(3))
    if (magic, version) != (0x1950A86A20F9469CFC6C, 1001):
        raise CheckpointError('torch.save did not write it')
    storages: dict[str, torch.Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> torch.Tensor:
        return storages.setdefault(key, torch.empty(count, dtype=dtype))

    content = _Unpickler(file, storage).load()
    for key in _Unpickler(file).load():
        file.read(8)  # its count again
        _fill(storages[key], file)
    return content


def _fill(storage: torch.Tensor, file: IO[bytes]) -> torch.Tensor:
    data = storage.view(torch.uint8).numpy()
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]
        raise CheckpointError('its tensors are cut off')
    return storage


class _Unpickler(pickle.Unpickler):
    """Knows containers, tensors, arrays of numbers and a run's history.

    Args:
        file (IO[bytes]): read up to the end of one pickle.
        storage (Callable, optional): dtype, key and number of elements to
            the tensor of one dimension that others are views of.
    """

    def __init__(
        self, file: IO[bytes], storage: Storage | None = None
    ) -> None:
        # The encoding is for arrays that Python 2 wrote.
        super().__init__(file, encoding='latin1')
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What a file calls by a name."""
        # Renamed by NumPy 2 and by Python 3.
        full = f'{module}.{name}'.replace('numpy._core.', 'numpy.core.')
        full = re.sub('^builtins', '__builtin__', full)
        if full in _CALLED:
            return getattr(self, _CALLED[full])
        if full in _KNOWN:
            return _KNOWN[full]
        raise CheckpointError(f'{full} may run code')

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """A storage, as a tensor of one dimension."""
        # The last, of the old format only: whether it is part of another.
        kind, dtype, key, _, count, *part = pid
        if kind != 'storage' or self._storage is None or any(part):
            raise CheckpointError(f'a reference to a {kind} may run code')
        return self._storage(dtype, key, count)

    # Class methods, which are bound where they are taken from an instance.

    @classmethod
    def tensor(
        cls,
        storage: torch.Tensor,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool = False,
        hooks: object = None,
        bits: object = None,
    ) -> torch.Tensor:
        """A tensor; what hooks it had is not of interest."""
        if bits:
            raise CheckpointError('a tensor is conjugate or negative')
        view = storage.as_strided(size, stride, offset)
        return view.requires_grad_(requires_grad)

    @classmethod
    def parameter(
        cls, data: torch.Tensor, requires_grad: bool, hooks: object
    ) -> torch.nn.Parameter:
        """A parameter."""
        return torch.nn.Parameter(data, requires_grad)

    @classmethod
    def array(cls, *_: object) -> _Array:
        """An array, empty until its state comes."""
        return np.ndarray.__new__(_Array, 0)

    @classmethod
    def buffer(
        cls, data: bytes, dtype: _DType, shape: Any, order: Any, *_: object
    ) -> np.ndarray:
        """An array in one piece."""
        return np.frombuffer(data, dtype.numpy).reshape(shape, order=order)

    @classmethod
    def scalar(cls, dtype: _DType, data: bytes) -> Any:
        """One number of NumPy's."""
        return np.frombuffer(data, dtype.numpy)[0]

    @classmethod
    def counter(cls, counts: dict) -> Counter:
        """The steps of a schedule; the class itself could be changed."""
        return Counter(counts)

    @classmethod
    def spell(cls, text: str, encoding: str) -> bytes:
        """What ``_codecs.encode`` is for in a pickle: bytes."""
        if encoding != 'latin1':
            raise CheckpointError(f'encoding {encoding!r} may run code')
        return text.encode(encoding)

    @classmethod
    def method(cls, owner: type, name: str) -> Any:
        """What ``getattr`` may do: name a method of HistoryBuffer."""
        if owner is not HistoryBuffer or name.startswith('_'):
            raise CheckpointError(f'{owner}.{name} by getattr may run code')
        return getattr(owner, name)


class _DType:
    """A dtype of numbers: only its byte order may be set."""

    def __init__(self, code: str, *_: object) -> None:
        # A code that is no string can name fields, at any address.
        self.numpy = np.dtype(code if isinstance(code, str) else object)
        if self.numpy.kind not in 'biuf':
            raise CheckpointError(f'an array of {code!r} may hold objects')

    def __setstate__(self, state: tuple) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])

    def __reduce__(self) -> Any:
        return self.numpy.__reduce__()


class _Array(np.ndarray):
    """An array that a file fills, and that is saved as a plain one.

    Made by a call, it would take the file's bytes for addresses of objects.
    """

    def __new__(cls, *_: object) -> _Array:
        raise CheckpointError('ndarray() may run code')

    def __setstate__(self, state: tuple) -> None:  # type: ignore[override]
        version, shape, dtype, fortran, data = state
        if isinstance(data, str):
            data = data.encode('latin1')
        super().__setstate__((version, shape, dtype.numpy, fortran, data))

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


class _Namespace(argparse.Namespace):
    """The arguments of the command that wrote a file."""

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)

    def __reduce__(self) -> Any:
        return argparse.Namespace, (), vars(self)


_DTYPES = {
    'Bool': torch.bool,
    'Byte': torch.uint8,
    'Char': torch.int8,
    'Short': torch.int16,
    'Int': torch.int32,
    'Long': torch.int64,
    'BFloat16': torch.bfloat16,
    'Half': torch.float16,
    'Float': torch.float32,
    'Double': torch.float64,
    'ComplexFloat': torch.complex64,
    'ComplexDouble': torch.complex128,
}
# What mmengine, the released code and Detectron2 store beside tensors.
_KNOWN: dict[str, Any] = {
    **{str(dtype): dtype for dtype in _DTYPES.values()},
    **{f'torch.{name}Storage': dtype for name, dtype in _DTYPES.items()},
    'torch.Size': torch.Size,
    'torch.device': torch.device,
    'collections.OrderedDict': OrderedDict,
    'argparse.Namespace': _Namespace,
    'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
    'numpy.dtype': _DType,
    'numpy.ndarray': _Array,
    '__builtin__.bytearray': bytearray,
    '__builtin__.bytes': bytes,
    '__builtin__.complex': complex,
    '__builtin__.set': set,
}
_CALLED = {
    'torch._utils._rebuild_tensor': 'tensor',
    'torch._utils._rebuild_tensor_v2': 'tensor',
    'torch._utils._rebuild_parameter': 'parameter',
    'numpy.core.multiarray._reconstruct': 'array',
    'numpy.core.multiarray.scalar': 'scalar',
    'numpy.core.numeric._frombuffer': 'buffer',
    'collections.Counter': 'counter',
    '_codecs.encode': 'spell',
    '__builtin__.getattr': 'method',
}
