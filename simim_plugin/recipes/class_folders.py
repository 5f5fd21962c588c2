"""Read a folder of labelled pictures: one sub-folder for each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ..errors import SimimError
from ..pictures.archives import find_archives, split_archive
from ..pictures.listing import list_labelled_archives
from ..pictures.walking import (
    EXTENSIONS,
    Census,
    class_folders,
    images_by_class,
)
from ..text import some
from .splitting import (
    TESTS,
    TRAINING,
    Counted,
    balance,
    check_share,
    divide,
    part_named,
)
from .survey import (
    Survey,
    check_lines,
    refuse_broken_tests,
    refuse_links,
    refuse_shared,
    survey,
)


@dataclass(frozen=True)
class Labelled(Counted):
    """Labelled pictures to train on and to test on.

    Args:
        train (str): folder of the class folders.
        val (str): the same of the test pictures.
        lists (dict[str, list[str]]): the lines of ``train`` and ``val`` if
            both are one folder, else empty. Each is CLASS/NAME; or NAME LABEL
            if there is a third list, of ``classes``.
        counts (dict[str, int]): training pictures by class, sorted by name.
        tested (dict[str, int]): test pictures by class.
        pictures (Survey): the training pictures.
    """

    train: str
    val: str
    lists: dict[str, list[str]]
    counts: dict[str, int]
    tested: dict[str, int]
    pictures: Survey

    def __str__(self) -> str:
        """Return one line: pictures, classes and their balance."""
        return (
            f'{sum(self.counts.values())} training and '
            f'{sum(self.tested.values())} test pictures of '
            f'{len(self.counts)} classes, {balance(self.counts)}'
        )


def read_class_folders(
    root: str, val_root: str | None, share: float, seed: int
) -> Labelled:
    """Read ``root/train/CLASS`` and ``root/val/CLASS``, or ``root/CLASS``.

    Args:
        root (str): the folder.
        val_root (str, optional): of the class folders to test on; those of
            ``root`` train. Both may be archives. Defaults to None.
        share (float): of each class to test on, if there is one part only.
        seed (int): of that division.

    Raises:
        SimimError: if there are no pictures, fewer than two classes, other
            classes in the two parts, or a class with one picture that cannot
            be divided.
    """
    if val_root:
        return _two_folders(root, val_root)
    names, train, val = _parts(root)
    if train and val:
        return _two_folders(os.path.join(root, train), os.path.join(root, val))
    if train and len(names) == 1:
        root = os.path.join(root, train)
    else:
        _refuse_parts(root, names)
    check_share(share)
    found = _images(root)
    if split_archive(next(iter(found.values()))[0]):
        raise SimimError(
            f'The pictures of {root} are in an archive, which is not divided; '
            'pass a second one to test on by --val-data, or unpack it.'
        )
    alone = [name for name, paths in found.items() if len(paths) < 2]
    if alone:
        raise SimimError(
            f'The class {alone[0]} of {root} has one picture, which cannot '
            'both train and test; add pictures, or remove the folder.'
        )
    pictures = [*chain(*found.values())]
    refuse_links(pictures)
    seen = survey(pictures, every=True)
    broken = {*seen.broken}
    files = [
        (name, path)
        for name, paths in found.items()
        for path in paths
        if path not in broken
    ]
    parts = divide([name for name, _ in files], share, seed)
    lists, counts = {}, []
    for part, indices in zip(('train', 'val'), parts, strict=True):
        chosen = [files[k] for k in indices]
        lists[part] = [Path(p).relative_to(root).as_posix() for _, p in chosen]
        by_class = Counter(name for name, _ in chosen)
        counts.append({name: by_class[name] for name in found})
    for lines in lists.values():
        check_lines(lines, root)
    ours, theirs = counts
    seen = seen.without_broken()
    return Labelled(root, root, lists, ours, theirs, seen)


def is_divided(root: str) -> bool:
    """Whether a folder has one part to train and one to test on."""
    _, train, val = _parts(root)
    return bool(train and val)


def _parts(root: str) -> tuple[list[str], str | None, str | None]:
    """Return the sub-folders, and those that train and test."""
    names = class_folders(root) if os.path.isdir(root) else []
    return names, part_named(names, TRAINING), part_named(names, TESTS)


def _refuse_parts(root: str, names: Sequence[str]) -> None:
    """Refuse a part of the data among the classes."""
    for name in names:
        if name.lower() not in (*TRAINING, *TESTS):
            continue
        inner = Path(root, name)
        found = images_by_class(root, [name])[name]
        # A class of that name has pictures of its own.
        folders = {Path(path).relative_to(inner).parts[:-1] for path in found}
        if () not in folders and len(folders) > 1:
            raise SimimError(
                f'{inner} holds the class folders of a part of the data, and '
                f'{root} has no other part of a known name (found '
                f'{some(names)}); call the parts train and val, or pass the '
                'one to train on, and the other as --val-data.'
            )


def _two_folders(train: str, val: str) -> Labelled:
    ours, theirs = _images(train), _images(val)
    if ours.keys() != theirs.keys():
        other = sorted(ours.keys() ^ theirs.keys())
        raise SimimError(
            f'{train} and {val} have other classes ({some(other)} is in one '
            'of them only); give both the same sub-folders.'
        )
    pictures, tests = ([*chain(*one.values())] for one in (ours, theirs))
    refuse_shared(pictures, tests)
    seen = survey(pictures)
    refuse_broken_tests(tests)
    counts, tested = (
        {name: len(paths) for name, paths in one.items()}
        for one in (ours, theirs)
    )
    return Labelled(train, val, {}, counts, tested, seen)


def _images(root: str) -> dict[str, list[str]]:
    """Return the pictures of each class, without empty folders."""
    names = class_folders(root) if os.path.isdir(root) else []
    found = images_by_class(root, names) if names else {}
    if not any(found.values()) and find_archives(root):
        groups = list_labelled_archives(root, EXTENSIONS, Census())
        found = {
            name: [path for path, _ in pictures]
            for name, pictures in groups.items()
        }
        lacking = [name for name, paths in found.items() if not paths]
        if lacking:
            raise SimimError(
                f'{root} has no picture of class {lacking[0]}, and one of a '
                'higher number; number the classes without gaps.'
            )
    found = {name: paths for name, paths in found.items() if paths}
    if len(found) < 2:
        raise SimimError(
            f'{root} has {len(found)} sub-folders with pictures, and a '
            'classifier needs two or more, one for each class; pass the '
            'folder that holds them, the one that holds train/ and val/, or '
            'a list of pictures and labels (.csv or .txt).'
        )
    return found
