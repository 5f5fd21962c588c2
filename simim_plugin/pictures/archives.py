"""Read pictures out of zip and tar files without unpacking them.

A picture in an archive has the path ``ARCHIVE/INNER/NAME``. The indexes are
made by zipfile and tarfile; a picture is then read by its offset.
"""

from __future__ import annotations

import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

from ..errors import SimimError
from ..files import check_regular
from .walking import EXTENSIONS, Census, is_listed

ARCHIVES = ('.tar', '.zip')
COMPRESSED = re.compile(r'\.(tgz|tbz2?|txz|7z|rar|tar\.\w+)$', re.IGNORECASE)
LABEL = '.cls'
TAR, STORED, DEFLATED = -1, 0, 8
_INSIDE = re.compile(r'(.*?\.(?:zip|tar))(?:/(.*))?$', re.IGNORECASE | re.S)
_RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')
_LOCAL_HEADER = struct.Struct('<4s22xHH')
_BLOCK = 512


class Limits:
    """Bounds of what reading an archive costs."""

    MEMBER = 1 << 30
    """Bytes of one picture."""
    RATIO = 1032
    """Bytes that one deflated byte can produce, by its format."""
    LABEL = 64
    """Bytes of one label file."""
    CLASSES = 100_000
    """Classes that label files number."""
    SHARDS = 100_000
    """Archives that one pattern names."""
    OPEN = 64
    """Archives that a process holds open."""


class Member(NamedTuple):
    """The place of a file in its archive.

    ``stamp`` is the CRC-32 of a zip member, and the checksum of the header of
    a tar member, which shows that the archive was changed.
    """

    offset: int
    packed: int
    size: int
    method: int
    stamp: int


def split_archive(path: str) -> tuple[str, str] | None:
    """Split ``ARCHIVE/INNER``, or return None if no archive is in a path."""
    end = 0
    while found := _INSIDE.match(path[end:]):
        archive = path[: end + found.end(1)]
        if os.path.isfile(archive):
            return archive, found[2] or ''
        end += found.end(1)
    return None


def find_archives(root: str) -> list[tuple[str, str]]:
    """Return the archives that a data_root names, each with a folder inside.

    Args:
        root (str): an archive, a folder inside one (``a.zip/train``), a
            folder that holds archives, or a pattern of shards
            (``shard-{000000..000123}.tar``).

    Raises:
        SimimError: for a compressed tar, or shards that are missing.
    """
    root = root.rstrip('/') or '/'
    if os.path.isdir(root):
        names = filter(is_listed, sorted(os.listdir(root)))
        files = [os.path.join(root, name) for name in names]
        found = [(file, '') for file in files if is_archive(file)]
    elif _RANGE.search(root):
        found = [(file, '') for file in _expand(root)]
        missing = [file for file, _ in found if not os.path.isfile(file)]
        if missing:
            raise SimimError(
                f'{len(missing)} of the {len(found)} archives that {root} '
                f'names are missing ({missing[0]}, ...); complete them, or '
                'shorten the range.'
            )
    else:
        inside = split_archive(root)
        found = [inside] if inside else []
        files = [root]
    if not found:
        packed = [file for file in files if COMPRESSED.search(file)]
        if packed and os.path.isfile(packed[0]):
            raise _compressed(packed[0])
    return found


def is_archive(path: str) -> bool:
    """Return whether a file is a zip or a tar by its name."""
    return path.lower().endswith(ARCHIVES) and os.path.isfile(path)


def list_archive(
    archive: str,
    inner: str = '',
    extensions: Sequence[str] = EXTENSIONS,
    census: Census | None = None,
) -> dict[str, Member]:
    """Return the pictures of an archive by their names in it, sorted.

    Hidden and system folders, links, and names that lead out of the archive
    are left and counted. The last of several members of one name counts, as
    after unpacking. Label files (``.cls``) are returned too.

    Args:
        archive (str): a zip or a plain tar.
        inner (str): a folder inside. Defaults to all.
        extensions (Sequence[str]): lower-case extensions of image files.
        census (Census, optional): counts the files.

    Raises:
        SimimError: for an archive that is damaged, compressed or encrypted,
            or states sizes that it cannot hold.
    """
    census = census or Census()
    census.stamp(archive)
    inner = f'{inner.strip("/")}/' if inner.strip('/') else ''
    endings = (*extensions, LABEL)
    found: dict[str, Member] = {}
    with _explained(archive):
        check_regular(archive)
        total = os.path.getsize(archive)
        for name, member, problem in _members(archive):
            parts = name.split('/')
            if not name.startswith(inner):
                continue
            ending = os.path.splitext(name)[1].lower()
            if name.startswith('/') or '..' in parts:
                census.left['that lead out of the archive'] += 1
            elif problem == 'link':
                census.left['links'] += 1
            elif not all(map(is_listed, parts)):
                continue
            elif not name.lower().endswith(endings):
                census.left[ending] += 1
            else:
                if problem:
                    raise ValueError(f'{name} is {problem}')
                _check(name, member, total)
                if name in found:
                    census.left['of repeated names'] += 1
                found[name] = member
    for name in found:
        if not name.lower().endswith(LABEL):
            census.images[os.path.splitext(name)[1].lower()] += 1
    return dict(sorted(found.items()))


def read_member(archive: str, member: Sequence[int]) -> bytes:
    """Return the bytes of a file in an archive.

    Raises:
        OSError: if the archive cannot be read, or has changed.
        ValueError: if its bytes are damaged.
    """
    offset, packed, size, method, stamp = member
    handle = _opened(archive)  # another thread may close one that is not held
    fd = handle.fd
    if method == TAR:
        block = os.pread(fd, _BLOCK + size, offset - _BLOCK)
        if len(block) != _BLOCK + size or _checksum(block) != stamp:
            raise OSError('the archive has changed since it was listed')
        return block[_BLOCK:]
    header = os.pread(fd, _LOCAL_HEADER.size, offset)
    if len(header) < _LOCAL_HEADER.size or header[:4] != b'PK\3\4':
        raise OSError('the archive has changed since it was listed')
    _, name, extra = _LOCAL_HEADER.unpack(header)
    data = os.pread(fd, packed, offset + _LOCAL_HEADER.size + name + extra)
    if method == DEFLATED:
        data = zlib.decompressobj(-15).decompress(data, size + 1)
    if len(data) != size or zlib.crc32(data) != stamp:
        raise ValueError('its bytes in the archive are damaged')
    return data


def read_label(archive: str, name: str, member: Member) -> int:
    """Return the class of a webdataset label file.

    Raises:
        SimimError: if it holds no class.
    """
    try:
        if member.size > Limits.LABEL:
            raise ValueError
        label = int(read_member(archive, member))
        if not 0 <= label < Limits.CLASSES:
            raise ValueError
    except (OSError, ValueError) as error:
        raise SimimError(
            f'The label file {archive}/{name} holds no class; it needs one '
            f'whole number from 0 to {Limits.CLASSES - 1}.'
        ) from error
    return label


def _members(archive: str) -> Iterator[tuple[str, Member, str]]:
    """Yield name, place and, if it cannot be read, what a member is."""
    zipped = archive.lower().endswith('.zip')
    return _zip_members(archive) if zipped else _tar_members(archive)


def _zip_members(archive: str) -> Iterator[tuple[str, Member, str]]:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
    for info in members:
        if info.is_dir():
            continue
        name = info.filename
        if '/' not in name:  # as some Windows tools write it
            name = name.replace('\\', '/')
        problem = ''
        if info.external_attr >> 28 == 0xA:
            problem = 'link'
        elif info.flag_bits & 1:
            problem = 'encrypted; pack it without a password'
        elif info.compress_type not in (STORED, DEFLATED):
            problem = (
                f'compressed by method {info.compress_type}; pack it stored '
                'or deflated'
            )
        yield (
            name,
            Member(
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.compress_type,
                info.CRC,
            ),
            problem,
        )


def _tar_members(archive: str) -> Iterator[tuple[str, Member, str]]:
    with tarfile.open(archive, 'r:') as opened:
        last = -1
        for info in opened:
            opened.members.clear()  # type: ignore[attr-defined]
            if info.offset <= last or info.size < 0:
                raise ValueError(f'{info.name} states a negative size')
            last = info.offset
            if info.isdir():
                continue
            regular = info.isreg() and info.sparse is None
            problem = '' if regular else 'link'
            stamp = info.chksum
            place = Member(info.offset_data, info.size, info.size, TAR, stamp)
            yield info.name.removeprefix('./'), place, problem
        end = opened.offset
    _check_end(archive, end)


def _check_end(archive: str, end: int) -> None:
    """Check that zeros alone end a tar, since tarfile stops at any damage."""
    handle = _opened(archive)  # as above
    fd = handle.fd
    block = os.pread(fd, _BLOCK, end)
    if len(block) < _BLOCK:
        raise ValueError('its end is missing: it is cut')
    while block:
        if any(block):
            raise ValueError(
                f'it has a damaged header, or a second tar, at byte {end}'
            )
        end += len(block)
        block = os.pread(fd, 1 << 20, end)


def _checksum(block: bytes) -> int:
    digits = block[148:156].strip(b' \0')
    return int(digits, 8) if digits.isdigit() else -1


def _check(name: str, member: Member, total: int) -> None:
    """Raise ValueError for sizes that cannot be those of the archive."""
    if member.offset + member.packed > total:
        raise ValueError(f'{name} ends behind the end of the archive')
    most = member.packed * (Limits.RATIO if member.method == DEFLATED else 1)
    if member.size > most:
        raise ValueError(
            f'{name} states {member.size} bytes, more than its '
            f'{member.packed} packed bytes can hold'
        )
    if member.size > Limits.MEMBER:
        raise ValueError(
            f'{name} states {member.size} bytes, more than {Limits.MEMBER}'
        )


@contextmanager
def _explained(archive: str) -> Iterator[None]:
    """Turn the errors of zipfile and tarfile into one sentence."""
    try:
        yield
    except SimimError:
        raise
    # Hostile bytes raise many types: struct.error, UnicodeDecodeError, ...
    except Exception as error:
        if _is_compressed(archive):
            raise _compressed(archive) from error
        reason = str(error).rstrip('.') or type(error).__name__
        raise SimimError(
            f'Cannot read the archive {archive} ({reason}): pack or copy it '
            'again.'
        ) from error


def _is_compressed(archive: str) -> bool:
    magic = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')
    try:
        with open(archive, 'rb') as file:
            return file.read(8).startswith(magic)
    except OSError:
        return False


def _compressed(archive: str) -> SimimError:
    return SimimError(
        f'{archive} is a compressed archive, in which no picture can be '
        'found by its offset; unpack it to a plain .tar (as by `gunzip`), or '
        'pack a .zip.'
    )


def _expand(pattern: str) -> list[str]:
    """Return the names of a pattern with one or more ``{000..123}``."""
    names = [pattern]
    while found := _RANGE.search(names[0]):
        first, last = int(found[1]), int(found[2])
        count = (last - first + 1) * len(names)
        if not 0 < count <= Limits.SHARDS:
            raise SimimError(
                f'The pattern {pattern} names {max(count, 0)} archives; '
                f'name 1 to {Limits.SHARDS}.'
            )
        digits = len(found[1])
        names = [
            _RANGE.sub(f'{number:0{digits}}', name, count=1)
            for name in names
            for number in range(first, last + 1)
        ]
    return names


class _Handle:
    """An open file, closed when nothing uses it any longer."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, 'fd'):
            os.close(self.fd)


@lru_cache(maxsize=Limits.OPEN)
def _open(path: str, *_changed: int) -> _Handle:
    return _Handle(path)


def _opened(path: str) -> _Handle:
    """Return an open archive; ``pread`` has no place that forks share."""
    status = os.stat(path)
    return _open(path, status.st_mtime_ns, status.st_ino)
