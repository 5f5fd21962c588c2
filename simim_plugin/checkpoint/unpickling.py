"""Read pickles, and torch's file formats, by a closed allow-list.

``find_class`` looks every name in a file up in a table. No entry runs code
that the file chooses, and a file cannot change an entry: bound methods and
built-in types take no attributes, and our classes define ``__setstate__``.

``torch.load(weights_only=True)`` does not replace this reader:

- It accepts more, and its list cannot be narrowed. A file may call
  ``torch.Tensor(n)``, which returns uninitialised memory, or encode text by
  any codec. The list belongs to the process: importing mmpretrain extends it.
- It reads less: neither pickle protocols 4 and 5 nor Detectron2's pickles.
- It is not safe in all versions that we support. Before torch 2.6 a file can
  run code (CVE-2025-32434), before 2.10 corrupt memory (CVE-2026-24747).
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
    """Return the content of a ``torch.save`` file of either format."""
    with path.open('rb') as file:
        if file.read(4) == b'PK\x03\x04':
            return _load_zip(file)
        file.seek(0)
        return _load_stream(file)


def load_pickle(path: Path) -> Any:
    """Return the content of a plain pickle."""
    with path.open('rb') as file:
        return _Unpickler(file).load()


def _load_zip(file: IO[bytes]) -> Any:
    """Read the format of torch 1.6 and later: one member per storage."""
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
    """Read the older format: five pickles, then the storages in a row."""
    magic, version, _ = (_Unpickler(file).load() for _ in range(3))
    if (magic, version) != (0x1950A86A20F9469CFC6C, 1001):
        raise CheckpointError('torch.save did not write it')
    storages: dict[str, torch.Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> torch.Tensor:
        return storages.setdefault(key, torch.empty(count, dtype=dtype))

    content = _Unpickler(file, storage).load()
    keys = _Unpickler(file).load()
    if storages.keys() - keys:  # these would stay uninitialised
        raise CheckpointError('its tensors are cut off')
    for key in keys:
        file.read(8)  # the count, a second time
        _fill(storages[key], file)
    return content


def _fill(storage: torch.Tensor, file: IO[bytes]) -> torch.Tensor:
    data = storage.view(torch.uint8).numpy()
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]
        raise CheckpointError('its tensors are cut off')
    return storage


class _Unpickler(pickle.Unpickler):
    """Build containers, tensors, arrays of numbers and a run's history.

    Args:
        file (IO[bytes]): positioned at a pickle, which is read to its end.
        storage (Callable, optional): returns the one-dimensional tensor of
            a dtype, a key and a number of elements. Other tensors are views
            of it.
    """

    def __init__(
        self, file: IO[bytes], storage: Storage | None = None
    ) -> None:
        # The encoding is for arrays that Python 2 wrote.
        super().__init__(file, encoding='latin1')
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return the table's entry for a name in the file."""
        # NumPy 2 and Python 3 renamed these modules.
        full = f'{module}.{name}'.replace('numpy._core.', 'numpy.core.')
        full = re.sub('^builtins', '__builtin__', full)
        if full in _CALLED:
            return getattr(self, _CALLED[full])
        if full in _KNOWN:
            return _KNOWN[full]
        raise CheckpointError(f'{full} may run code')

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Return a storage as a one-dimensional tensor."""
        # Only the old format has a part: the storage is a view of another.
        kind, dtype, key, _, count, *part = pid
        if kind != 'storage' or self._storage is None or any(part):
            raise CheckpointError(f'a reference to a {kind} may run code')
        return self._storage(dtype, key, count)

    # Class methods are bound when find_class looks them up.

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
        """Return a tensor without its hooks."""
        if bits:
            raise CheckpointError('a tensor is conjugate or negative')
        view = storage.as_strided(size, stride, offset)
        return view.requires_grad_(requires_grad)

    @classmethod
    def parameter(
        cls, data: torch.Tensor, requires_grad: bool, hooks: object
    ) -> torch.nn.Parameter:
        """Return a parameter without its hooks."""
        return torch.nn.Parameter(data, requires_grad)

    @classmethod
    def array(cls, *_: object) -> _Array:
        """Return an empty array, which its state will fill."""
        return np.ndarray.__new__(_Array, 0)

    @classmethod
    def buffer(
        cls, data: bytes, dtype: _DType, shape: Any, order: Any, *_: object
    ) -> np.ndarray:
        """Return a contiguous array."""
        return np.frombuffer(data, dtype.numpy).reshape(shape, order=order)

    @classmethod
    def scalar(cls, dtype: _DType, data: bytes) -> Any:
        """Return a NumPy number."""
        return np.frombuffer(data, dtype.numpy)[0]

    @classmethod
    def counter(cls, counts: dict) -> Counter:
        """Return a schedule's steps; a file could change ``Counter``."""
        return Counter(counts)

    @classmethod
    def encode(cls, text: str, encoding: str) -> bytes:
        """Return bytes that a pickle of protocol 2 holds as text."""
        if encoding != 'latin1':
            raise CheckpointError(f'encoding {encoding!r} may run code')
        return text.encode(encoding)

    @classmethod
    def method(cls, owner: type, name: str) -> str:
        """Return the name of a HistoryBuffer method, which nothing calls."""
        if owner is not _History or name.startswith('_'):
            raise CheckpointError(f'{owner}.{name} by getattr may run code')
        return name


class _DType:
    """A dtype of numbers. A file may set its byte order only."""

    def __init__(self, code: str, *_: object) -> None:
        # A code that is no string can place fields at any address.
        self.numpy = np.dtype(code if isinstance(code, str) else object)
        if self.numpy.kind not in 'biuf':
            raise CheckpointError(f'an array of {code!r} may hold objects')

    def __setstate__(self, state: tuple) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])

    def __reduce__(self) -> Any:
        return self.numpy.__reduce__()


class _Array(np.ndarray):
    """An array that a file fills. It is saved as a plain array.

    A file that called ``ndarray`` could pass bytes as addresses of objects.
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


class _History(HistoryBuffer):
    """The logged values of a scalar. It is saved as a plain HistoryBuffer.

    HistoryBuffer would register a file's statistics for the whole process.
    """

    def __setstate__(self, state: dict) -> None:
        super().__init__(
            state['_log_history'], state['_count_history'], state['max_length']
        )

    def __reduce__(self) -> Any:
        return HistoryBuffer, (*self.data, self.max_length)


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
# The names in files of mmengine, the released code and Detectron2.
_KNOWN: dict[str, Any] = {
    **{str(dtype): dtype for dtype in _DTYPES.values()},
    **{f'torch.{name}Storage': dtype for name, dtype in _DTYPES.items()},
    'torch.Size': torch.Size,
    'torch.device': torch.device,
    'collections.OrderedDict': OrderedDict,
    'argparse.Namespace': _Namespace,
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
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
    '_codecs.encode': 'encode',
    '__builtin__.getattr': 'method',
}
