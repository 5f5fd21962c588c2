"""Look at the pictures of a data set: sizes, channels, levels, faults."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.progress import track

from ..errors import SimimError
from ..pictures import read_header
from ..pictures.archives import Member, list_archive, split_archive
from ..pictures.dicom import is_dicom
from ..pictures.files import read_file
from ..pictures.reading import read_levels
from ..pictures.tiff import is_tiff, read_stack, stated_channels
from ..text import on_terminal

MOST = 2_000
"""Largest number of pictures that are decoded; of more, evenly spaced ones."""

_CHUNK = 64
_GREY = ('1', 'L', 'LA')


class Picture(NamedTuple):
    """The size, channels and depth of one file.

    Args:
        height (int): pixels, upright.
        width (int): pixels, upright.
        channels (int): 1, 3, 4 for four planes, or more.
        deep (bool): whether levels have more than 8 bits.
    """

    height: int
    width: int
    channels: int
    deep: bool


@dataclass(frozen=True)
class Survey:
    """The pictures of a data set.

    Args:
        count (int): files.
        seen (list[Picture]): of the readable files that were decoded.
        broken (list[str]): the files that could not be read.
        left_out (list[str]): such files that no list of the data has.
    """

    count: int
    seen: list[Picture]
    broken: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Median height and width, pixels."""
        heights, widths = zip(*(p[:2] for p in self.seen), strict=True)
        return int(np.median(heights)), int(np.median(widths))

    @property
    def sides(self) -> tuple[int, int]:
        """Median of the short and of the long sides, pixels."""
        sides = np.sort([p[:2] for p in self.seen], axis=1)
        short, long = np.median(sides, axis=0).astype(int)
        return int(short), int(long)

    @property
    def channels(self) -> int:
        """The most common number of channels."""
        return Counter(p.channels for p in self.seen).most_common(1)[0][0]

    @property
    def deep(self) -> bool:
        """Whether most pictures have more than 8 bits a level."""
        return sum(p.deep for p in self.seen) * 2 > len(self.seen)

    @property
    def grey(self) -> bool:
        """Whether all pictures have one channel."""
        return all(p.channels == 1 for p in self.seen)

    def without_broken(self) -> Survey:
        """Return the survey of lists that leave the broken files out."""
        return replace(self, broken=[], left_out=self.broken)

    def __str__(self) -> str:
        """Return one line: count, sizes, channels and levels."""
        heights, widths, channels, deep = zip(*self.seen, strict=True)
        kinds = {1: 'grey', 3: 'RGB'}
        names = sorted({kinds.get(n, f'{n} channels') for n in channels})
        depths = {'more than 8' if one else '8' for one in deep}
        return (
            f'{self.count} pictures from {min(widths)} x {min(heights)} to '
            f'{max(widths)} x {max(heights)} pixels, half of them below '
            f'{self.size[1]} x {self.size[0]}; {", ".join(names)}; '
            f'{" and ".join(sorted(depths))} bits{self._unreadable()}'
        )

    def _unreadable(self) -> str:
        both = [*self.broken, *self.left_out]
        if not both:
            return ''
        such = ': ' if len(both) == 1 else ', such as '
        return f'; {unreadable(len(both))}{such}{Path(both[0]).name}'


def unreadable(count: int) -> str:
    """Return how many pictures cannot be read, in words."""
    return f'{count} picture{"s" * (count != 1)} cannot be read'


def survey(files: Sequence[str], every: bool = False) -> Survey:
    """Decode the pictures of a data set, or evenly spaced ones of many.

    Args:
        files (Sequence[str]): their paths, at least one.
        every (bool): decode all of many if one of the spaced ones is broken,
            so that ``broken`` is whole. Defaults to False.

    Raises:
        SimimError: if no picture can be read, or they have several numbers
            of channels other than 1 and 3.
    """
    index = np.linspace(0, len(files) - 1, min(MOST, len(files))).astype(int)
    seen, broken = _look_at([files[k] for k in index])
    if every and broken and len(files) > MOST:
        seen, broken = _look_at(files)
    if not seen:
        raise SimimError(
            f'None of the {len(files)} pictures can be read, such as '
            f'{files[0]}; check the files.'
        )
    counts = {p.channels for p in seen} - {1}
    if len(counts) > 1 or (counts - {3} and 1 in {p.channels for p in seen}):
        raise SimimError(
            f'The pictures have {sorted({p.channels for p in seen})} '
            'channels, and one encoder takes one number of them; put each '
            'kind into a folder of its own.'
        )
    return Survey(len(files), seen, broken)


def _look_at(files: Sequence[str]) -> tuple[list[Picture], list[str]]:
    """Decode pictures; return those that are readable, and other files."""
    places = _places(files)
    chunks = [files[k : k + _CHUNK] for k in range(0, len(files), _CHUNK)]
    seen: list[Picture] = []
    broken: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        for chunk in track(
            chunks,
            'Looking at the pictures',
            transient=True,
            disable=not on_terminal(),
        ):
            members = [places.get(path) for path in chunk]
            looked = pool.map(look, chunk, members)
            for path, found in zip(chunk, looked, strict=True):
                if found is None:
                    broken.append(path)
                else:
                    seen.append(found)
    return seen, broken


def _places(files: Sequence[str]) -> dict[str, Member]:
    """Return where the pictures in archives lie."""
    inside = [found for path in files if (found := split_archive(path))]
    return {
        f'{archive}/{name}': member
        for archive in {archive for archive, _ in inside}
        for name, member in list_archive(archive).items()
    }


def look(path: str, member: Member | None = None) -> Picture | None:
    """Decode one picture, or return None for an unreadable one.

    Args:
        path (str): of the file, or ``ARCHIVE/NAME``.
        member (Member, optional): its place in the archive.
    """
    # Decoders raise many types, from OSError to struct.error.
    try:
        data = read_file(path, member)
        height, width = read_header(io.BytesIO(data)).turned
        channels, deep = _decoded(data)
    except Exception:
        return None
    return Picture(height, width, channels, deep)


def _decoded(data: bytes) -> tuple[int, bool]:
    """Decode a picture once, as stored; a window is not chosen yet.

    Returns:
        tuple: channels, and whether levels have more than 8 bits.
    """
    grey, stated = False, None
    try:
        if not is_dicom(data):
            with Image.open(io.BytesIO(data)) as image:
                grey, stated = image.mode in _GREY, stated_channels(image)
        levels = read_levels(data, 3 if stated is None else stated)
    except Image.UnidentifiedImageError:
        if not is_tiff(data):
            raise
        levels = read_stack(data)[0]
        stated = levels.shape[-1]
    colours = levels.ndim == 3 and not (grey and levels.itemsize == 1)
    return stated or (3 if colours else 1), levels.itemsize > 1


def refuse_broken_tests(files: Sequence[str]) -> None:
    """Refuse pictures to test on that cannot be read.

    Raises:
        SimimError: naming one, since a test counts each picture.
    """
    broken = survey(files, every=True).broken
    if broken:
        raise SimimError(
            f'{len(broken)} test pictures cannot be read, such as '
            f'{broken[0]}; replace or remove them, since a test counts each '
            'picture.'
        )


def check_lines(lines: Sequence[str], root: str) -> None:
    """Refuse names that a list, one name a line, cannot hold.

    Raises:
        SimimError: naming the file.
    """
    for line in lines:
        good = line == line.strip() and len(line.splitlines()) == 1
        if not good or any('\ud800' <= c <= '\udfff' for c in line):
            raise SimimError(
                f'The name {line!r} in {root} cannot stand in a list, one '
                'name a line in UTF-8; rename the file, or divide the folder '
                'into train/ and val/ yourself.'
            )


def real_paths(paths: Iterable[str]) -> list[str]:
    """Return paths without links, looking at each folder once."""
    folders: dict[str, str] = {}
    found = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.join(folders[folder], name)
        found.append(os.path.realpath(real) if os.path.islink(real) else real)
    return found


def refuse_links(paths: Sequence[str]) -> None:
    """Refuse one picture of two names: a division may part them.

    Raises:
        SimimError: naming both.
    """
    known: dict[str, str] = {}
    for path, real in zip(paths, real_paths(paths), strict=True):
        if real in known:
            raise SimimError(
                f'{path} and {known[real]} are the same picture by a link, '
                'and might train and test; remove the link.'
            )
        known[real] = path


def refuse_shared(train: Sequence[str], tests: Sequence[str]) -> None:
    """Refuse pictures that would both train and test.

    Raises:
        SimimError: naming one.
    """
    known = {*real_paths(train)}
    shared = [
        path
        for path, real in zip(tests, real_paths(tests), strict=True)
        if real in known
    ]
    if shared:
        raise SimimError(
            f'{len(shared)} of {len(tests)} pictures to test on are training '
            f'pictures too, such as {shared[0]}; test on other pictures.'
        )
