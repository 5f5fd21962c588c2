"""List the pictures of a data_root, and keep long lists beside the runs.

A kept list holds while its folders and archives have the times, numbers and
sizes that they had.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process

from ..errors import SimimError
from ..files import complete_file
from .archives import (
    LABEL,
    Member,
    find_archives,
    list_archive,
    read_label,
)
from .walking import Census

FEWEST = 1000
"""Pictures of a list that is worth keeping."""
_VERSION = 1
_SAME_TICK = 2 * 10**9  # ns: a folder may change again within its time stamp
_keeping: dict[str, Any] = {'folder': None, 'relist': False}

Groups = dict[str, list[tuple[str, Member | None]]]
"""From a class to its pictures, by path, with the place in an archive."""


@contextmanager
def collecting_later() -> Iterator[None]:
    """Do not look for garbage meanwhile: a long list holds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def keeping_lists(folder: Path, relist: bool = False) -> Iterator[None]:
    """Keep the lists that are made inside.

    Args:
        folder (Path): for them; it is created.
        relist (bool): list anew what was kept. Defaults to False.
    """
    before = dict(_keeping)
    _keeping.update(folder=folder, relist=relist)
    try:
        yield
    finally:
        _keeping.update(before)


def kept(
    root: str,
    kind: str,
    extensions: Sequence[str],
    census: Census,
    make: Callable[[Census], Groups],
) -> Groups:
    """Return a kept list, or make it and keep it.

    Args:
        root (str): the data_root.
        kind (str): of list.
        extensions (Sequence[str]): of images.
        census (Census): gets the counts of the list.
        make (Callable): lists the pictures and counts them.
    """
    folder = _keeping['folder']
    if folder is None:
        return make(census)
    typed, root = root, os.path.abspath(root)
    # Paths in the list begin with the root as it was typed.
    key = [_VERSION, kind, root, typed, os.getcwd(), *extensions]
    name = hashlib.blake2b(json.dumps(key).encode(), digest_size=8)
    file = Path(folder, f'{name.hexdigest()}.json')
    if not _keeping['relist']:
        # A damaged list is made anew.
        with suppress(OSError, ValueError, TypeError, KeyError):
            return _load(file, key, census)
    now = time.time_ns()
    groups = make(census)
    latest = max((stamp[0] for stamp in census.stamps.values()), default=now)
    # The target of a lost link may come back, as a disk does.
    many = census.images.total() >= FEWEST and not census.lost
    if many and latest < now - _SAME_TICK and is_main_process():
        with suppress(OSError):  # a list that cannot be kept is made again
            _save(file, key, census, groups)
    return groups


def list_archives(
    root: str, extensions: Sequence[str], census: Census
) -> Groups:
    """Return all pictures of the archives that a data_root names, as ''.

    Raises:
        SimimError: see :mod:`simim_plugin.pictures.archives`.
    """
    found: list[tuple[str, Member | None]] = []
    for archive, inner in find_archives(root):
        members = list_archive(archive, inner, extensions, census)
        found += [
            (f'{archive}/{name}', member)
            for name, member in members.items()
            if not name.lower().endswith(LABEL)
        ]
    return {'': sorted(found)}


def list_labelled_archives(
    root: str, extensions: Sequence[str], census: Census
) -> Groups:
    """Return the pictures of archives by class.

    A class is the number in the ``.cls`` file of a webdataset shard; else
    the first folder inside, below the folders that hold all pictures; else
    the name of the archive.

    Raises:
        SimimError: if a picture has no class.
    """
    groups: Groups = {}
    listed = [
        (archive, inner, list_archive(archive, inner, extensions, census))
        for archive, inner in find_archives(root)
    ]
    labelled = any(
        name.lower().endswith(LABEL)
        for *_, members in listed
        for name in members
    )
    folders = {} if labelled else _top_folders(listed)
    for archive, _, members in listed:
        numbers = _labels(archive, members) if labelled else {}
        for name, member in members.items():
            if not name.lower().endswith(LABEL):
                path = f'{archive}/{name}'
                label = numbers[name] if labelled else folders[path]
                groups.setdefault(label, []).append((path, member))
    if labelled and groups:
        order = [str(k) for k in range(max(map(int, groups)) + 1)]
    else:
        order = sorted(groups)
    return {name: sorted(groups.get(name, ())) for name in order}


def _labels(archive: str, members: dict[str, Member]) -> dict[str, str]:
    """Return the number in the label file of each picture."""
    labels = {
        _key(name): str(read_label(archive, name, member))
        for name, member in members.items()
        if name.lower().endswith(LABEL)
    }
    pictures = [n for n in members if not n.lower().endswith(LABEL)]
    alone = [name for name in pictures if _key(name) not in labels]
    if alone:
        raise SimimError(
            f'{len(alone)} pictures of {archive} have no label file '
            f'({alone[0]} needs {_key(alone[0])}{LABEL}); add them.'
        )
    return {name: labels[_key(name)] for name in pictures}


def _key(name: str) -> str:
    """Return the key of a sample: webdataset cuts at the first dot."""
    folder, slash, file = name.rpartition('/')
    return f'{folder}{slash}{file.partition(".")[0]}'


def _top_folders(
    listed: Sequence[tuple[str, str, dict[str, Member]]],
) -> dict[str, str]:
    """Return the class folder of each picture, or its archive's name.

    All archives have one level of classes, as if unpacked into one folder.
    """
    parts: dict[str, list[str]] = {}
    whole: dict[str, str] = {}
    for archive, inner, members in listed:
        start = len(f'{inner.strip("/")}/') if inner.strip('/') else 0
        for name in members:
            parts[f'{archive}/{name}'] = name[start:].split('/')
            whole[f'{archive}/{name}'] = Path(archive).stem
    depth = 0
    if parts and not any(inner.strip('/') for _, inner, _ in listed):
        while all(len(p) > depth + 2 for p in parts.values()) and (
            len({p[depth] for p in parts.values()}) == 1
        ):
            depth += 1
    shallow = [name for name, p in parts.items() if len(p) < depth + 2]
    if shallow and len(shallow) < len(parts):
        raise SimimError(
            f'{shallow[0]} is in no class folder, and others are; move it '
            'into one.'
        )
    if shallow:
        return whole
    folders = {path: p[depth] for path, p in parts.items()}
    alike = len({*folders.values()}) == 1
    return whole if alike and len(listed) > 1 else folders


def _save(file: Path, key: list, census: Census, groups: Groups) -> None:
    content = dict(
        key=key,
        stamps=census.stamps,
        images=census.images,
        left=census.left,
        repeated=census.repeated,
        groups=groups,
    )
    with complete_file(file) as part:
        part.write_text(json.dumps(content))


def _load(file: Path, key: list, census: Census) -> Groups:
    """Load a list whose folders and archives are as they were.

    Raises:
        ValueError: if they are not; other errors for a damaged list.
    """
    content = json.loads(file.read_text())
    if content['key'] != key:
        raise ValueError('another list')
    for path, stamp in content['stamps'].items():
        now = os.stat(path)
        if [now.st_mtime_ns, now.st_ino, now.st_size] != stamp:
            raise ValueError('changed')
    groups: Groups = {
        str(name): [
            (os.fspath(path), Member(*place) if place else None)
            for path, place in items
        ]
        for name, items in content['groups'].items()
    }
    census.images = Counter(content['images'])
    census.left = Counter(content['left'])
    census.repeated = [str(path) for path in content['repeated']]
    return groups
