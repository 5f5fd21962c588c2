"""Read the file formats of ``torch.save``, and plain pickles."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch

from .limits import CheckpointError, Limits
from .unpickling import Pickle


def load_torch(path: Path) -> Any:
    """Return the content of a ``torch.save`` file of either format.

    Raises:
        CheckpointError: if it holds more than :class:`Pickle` allows, or
            tensors that are not whole.
    """
    with _File(path.open('rb', buffering=0)) as file:
        if file.read(4) == b'PK\x03\x04':
            return _load_zip(file)
        file.seek(0)
        return _load_stream(file)


def load_pickle(file: IO[bytes], leaves: bool = True) -> Any:
    """Return the content of a plain pickle.

    Args:
        file (IO[bytes]): is read to its end.
        leaves (bool): see :class:`Pickle`.

    Raises:
        CheckpointError: if it holds more than :class:`Pickle` allows.
    """
    data = file.read()
    return Pickle(io.BytesIO(data), Limits(len(data)), leaves=leaves).load()


class _File(io.BufferedReader):
    """A file whose ``read`` never allocates more than the file holds."""

    def size(self) -> int:
        """Return the size in bytes."""
        return os.fstat(self.fileno()).st_size

    def read(self, count: int | None = -1, /) -> bytes:
        """Read ``count`` bytes, or all."""
        if count is not None and count > 1024:
            count = min(count, self.size() - self.tell())
        return super().read(count)


def _load_zip(file: _File) -> Any:
    """Read the format of torch 1.6 and later: one member per storage."""
    with zipfile.ZipFile(file) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('/data.pkl'))
        folder = name.removesuffix('data.pkl')
        _check_members(
            [
                member
                for member in archive.infolist()
                if member.filename == name
                or member.filename.startswith(f'{folder}data/')
            ],
            file.size(),
        )
        order = f'{folder}byteorder'
        if (
            order in archive.namelist()
            and archive.read(order).decode() != sys.byteorder
        ):
            raise CheckpointError('it has the byte order of another machine')

        @cache
        def data_of(key: str) -> torch.Tensor:
            member = archive.getinfo(f'{folder}data/{key}')
            with archive.open(member) as source:
                data = torch.empty(member.file_size, dtype=torch.uint8)
                return _fill(data, source)

        def storage(dtype: torch.dtype, key: str, count: int) -> torch.Tensor:
            return _typed(data_of(key), dtype, count)

        pickled = io.BytesIO(archive.read(name))
        return Pickle(pickled, Limits(file.size()), storage).load()


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse members that take more memory than the file."""
    if any(member.compress_type for member in members):
        raise CheckpointError('torch.save does not compress, and it is')
    if sum(member.file_size for member in members) > size:
        raise CheckpointError('its members are larger than the file')


def _load_stream(file: _File) -> Any:
    """Read the older format: five pickles, then the storages in a row."""
    limits = Limits(file.size())
    magic, version, _ = (Pickle(file, limits).load() for _ in range(3))
    if (magic, version) != (0x1950A86A20F9469CFC6C, 1001):
        raise CheckpointError('torch.save did not write it')
    left = file.size()
    storages: dict[str, torch.Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> torch.Tensor:
        nonlocal left
        if key not in storages:
            left -= max(count, 0) * dtype.itemsize
            if left < 0:
                raise CheckpointError('its tensors are cut off')
            storages[key] = torch.empty(count, dtype=dtype)
        return storages[key]

    content = Pickle(file, limits, storage).load()
    keys = Pickle(file, limits).load()
    if not isinstance(keys, list) or storages.keys() - {*map(str, keys)}:
        raise CheckpointError('its tensors are cut off')  # uninitialised
    for key in keys:
        file.read(8)  # the count, a second time
        _fill(storages[str(key)], file)
    return content


def _fill(storage: torch.Tensor, file: IO[bytes]) -> torch.Tensor:
    data = storage.view(torch.uint8).numpy()
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]
        raise CheckpointError('its tensors are cut off')
    return storage


def _typed(data: torch.Tensor, dtype: torch.dtype, count: int) -> torch.Tensor:
    """Return a storage's bytes as numbers."""
    size = count * dtype.itemsize
    if not 0 <= size <= len(data):
        raise CheckpointError('its tensors are cut off')
    return data[:size].view(dtype)
