"""Find the pictures that a person names: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SimimError
from ..pictures.walking import EXTENSIONS, list_images

LONGEST = 200
"""Bytes of the name of a file, to which endings are added."""

WRITTEN = '.png'


@dataclass(frozen=True)
class Picture:
    """A picture to predict.

    Args:
        path (str): of the file.
        name (str): below its folder, with forward slashes; unique.
        result (str): name of the PNG files that are written of it; unique.
    """

    path: str
    name: str
    result: str


def find_pictures(places: Sequence[str]) -> list[Picture]:
    """Return the pictures of all places, each file once.

    Files of the same name are named by their paths below the folder that
    holds all pictures. The results of ``album/a.jpg`` are called
    ``album/a.png``, or ``album/a.jpg.png`` beside a picture ``album/a.tif``.

    Args:
        places (Sequence[str]): a file, which is read whatever its ending;
            a folder, of which all images below are taken; or a pattern as of
            ``glob``, of which the files with the ending of an image and the
            folders are taken.

    Raises:
        SimimError: if a place does not exist or has no picture.
    """
    found: dict[str, tuple[str, str]] = {}
    for place in places:
        for path, root in _of(os.path.expanduser(place)):
            real = os.path.realpath(path)
            if real not in found:
                name = Path(os.path.relpath(path, root)).as_posix()
                found[real] = path, name
    uses = Counter(name.lower() for _, name in found.values())
    folders = [os.path.dirname(os.path.abspath(p)) for p, _ in found.values()]
    above = os.path.commonpath(folders) if folders else ''
    taken: set[str] = set()
    names = {}
    for path, name in found.values():
        if uses[name.lower()] > 1:
            name = Path(os.path.relpath(path, above)).as_posix()
        names[path] = _unique(name, taken)
    results = _results([*names.values()])
    return [
        Picture(path, name, result)
        for (path, name), result in zip(names.items(), results, strict=True)
    ]


def _results(names: Sequence[str]) -> list[str]:
    """Return the names of the PNG files of pictures, none of them twice."""
    stems = [_stem(name) for name in names]
    uses = Counter(stem.lower() for stem in stems)
    taken: set[str] = set()
    results = []
    for name, stem in zip(names, stems, strict=True):
        whole = uses[stem.lower()] > 1 and not name.lower().endswith(WRITTEN)
        results.append(_unique(f'{name if whole else stem}{WRITTEN}', taken))
    return results


def _stem(name: str) -> str:
    """Return a name without the ending of a picture."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in EXTENSIONS else name


def _of(place: str) -> Iterator[tuple[str, str]]:
    """Yield the files of a place, each with the folder that names it."""
    if os.path.isdir(place):
        inside = list_images(place)
        if not inside:
            raise SimimError(
                f'There is no picture ({" ".join(EXTENSIONS)}) in {place} or '
                'below; check the path.'
            )
        yield from ((path, place) for path in inside)
        return
    if os.path.exists(place):
        yield place, os.path.dirname(place) or '.'
        return
    matches = sorted(glob.glob(place, recursive=True))
    files = [
        path for path in matches if path.lower().endswith(tuple(EXTENSIONS))
    ]
    folders = [path for path in matches if os.path.isdir(path)]
    if not files and not folders:
        raise SimimError(
            f'There is no picture at {place}; pass files, folders or '
            "patterns such as 'photos/**/*.jpg'."
        )
    inner = {path for folder in folders for path in list_images(folder)}
    paths = sorted({path for path in files if os.path.isfile(path)} | inner)
    if not paths:
        raise SimimError(f'No folder at {place} holds a picture.')
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    yield from ((path, root or '.') for path in paths)


def _unique(name: str, taken: set[str]) -> str:
    """Return a name that no picture has, short enough for a file."""
    folder, _, last = name.rpartition('/')
    while len(last.encode(errors='surrogateescape')) > LONGEST:
        last = last[1:]  # the ending stays
    stem, ending = os.path.splitext(last)
    number = 1
    while True:
        tail = last if number == 1 else f'{stem}-{number}{ending}'
        name = f'{folder}/{tail}' if folder else tail
        if name.lower() not in taken:
            taken.add(name.lower())
            return name
        number += 1
