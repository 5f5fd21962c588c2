"""Read pictures with a label map each: a class for every pixel."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from ..errors import SimimError
from ..files import read_text
from ..segmentation.label_maps import (
    IGNORED,
    LOOKED_AT,
    LabelMapError,
    read_label_map,
)
from ..text import on_terminal
from .file_lists import is_list
from .pairs import Pairs, find_parts
from .splitting import check_share, divide
from .survey import (
    Survey,
    check_lines,
    refuse_broken_tests,
    refuse_links,
    refuse_shared,
    survey,
)

MOST_UNNAMED = 32
"""Values beside 0 and 255 that few pixels of whole masks may have."""


@dataclass(frozen=True)
class LabelMaps:
    """Label maps to train on and to test on.

    Args:
        train (Pairs): to train on.
        val (Pairs): to test on.
        values (dict[int, str]): the classes by the values that stand for
            them, sorted.
        ignored (list[int] | str): values that stand for no class, or
            'others'.
        shares (dict[int, float]): share of the training pixels by value.
        pictures (Survey): the training pictures.
        divided (bool): whether the seed has divided one part.
    """

    train: Pairs
    val: Pairs
    values: dict[int, str]
    ignored: list[int] | str
    shares: dict[int, float]
    pictures: Survey
    divided: bool

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their labels."""
        return [*self.values.values()]

    def of_each_class(self) -> list[str]:
        """Return the names of the classes and their shares of the pixels."""
        return [
            f'{name} {self.shares.get(value, 0.0):.1%}'
            for value, name in self.values.items()
        ]

    def __str__(self) -> str:
        """Return one line: pairs, classes and their balance."""
        shares = {n: self.shares.get(v, 0.0) for v, n in self.values.items()}
        least = min(shares, key=shares.__getitem__)
        most = max(shares, key=shares.__getitem__)
        left = self.ignored
        if not isinstance(left, str):
            left = ', '.join(map(str, left))
        ignored = f'; ignored values: {left}' if left else ''
        if left == str(IGNORED):
            ignored += ' (a class if classes.txt lists it)'
        return (
            f'{len(self.train.names)} training and {len(self.val.names)} test '
            f'pictures of {len(shares)} classes, from {shares[least]:.2%} of '
            f'the pixels ({least}) to {shares[most]:.2%} ({most}){ignored}'
        )


def read_label_maps(
    root: str,
    share: float,
    seed: int,
    names: str | None = None,
    ignored: Sequence[int] | str | None = None,
    val: str | None = None,
) -> LabelMaps:
    """Read pictures and label maps of a folder or a list.

    Args:
        root (str): a folder in one of the ``LAYOUTS`` of
            :mod:`simim_plugin.recipes.pairs`, or a list of pairs.
        share (float): of the pictures to test on, if there is one part.
        seed (int): of that division.
        names (str, optional): text file with a line ``VALUE NAME`` for each
            class. Defaults to ``classes.txt`` in ``root``, or beside the
            list, if it is there.
        ignored (Sequence[int] | str, optional): values that stand for no
            class, or 'others': all that ``names`` does not list. Defaults to
            255, if it is found beside two other values; to 0 of the demo's
            data.
        val (str, optional): a second folder or list, to test on. Defaults to
            None.

    Raises:
        SimimError: if pictures or label maps are missing, or there are fewer
            than two classes.
    """
    train, tests = find_parts(root, val)
    divided = tests is None
    if tests:
        refuse_shared(train.pictures(), tests.pictures())
    else:
        refuse_links(train.pictures())
    seen = survey(train.pictures(), every=True)
    broken = {*seen.broken}
    kept = [
        name
        for name, path in zip(train.names, train.pictures(), strict=True)
        if path not in broken
    ]
    if tests is None:
        train, tests = _divided(train.only(kept), share, seed, root)
    else:
        train = train.only(kept)
        refuse_broken_tests(tests.pictures())
    _check_names(train, tests)
    pixels, tested = _pixels(train), _pixels(tests)
    folder = os.path.dirname(root) if is_list(root) else root
    listed = _listed_names(folder, names)
    if names is None and not listed:
        listed = _demo_names(folder)
        ignored = [0] if listed and ignored is None else ignored
    found = _classes(pixels + tested, listed, ignored, train.maps)
    # Maps that were not looked at may have other values that were given.
    given = () if isinstance(ignored, str) else ignored or ()
    left: list[int] | str = sorted({*pixels, *tested, *given} - {*found})
    if ignored == 'others':
        left = 'others'
    total = sum(count for v, count in pixels.items() if v in found)
    shares = {v: pixels[v] / max(total, 1) for v in found}
    seen = seen.without_broken()
    return LabelMaps(train, tests, found, left, shares, seen, divided)


def _divided(
    pairs: Pairs, share: float, seed: int, root: str
) -> tuple[Pairs, Pairs]:
    check_share(share)
    names = pairs.names
    if len(names) < 2:
        raise SimimError(
            f'{root} has {len(names)} picture, which cannot both train and '
            'test; add pairs.'
        )
    train, val = divide([None] * len(names), share, seed)
    return (
        pairs.only([names[k] for k in train]),
        pairs.only([names[k] for k in val]),
    )


def _check_names(*parts: Pairs) -> None:
    """Refuse names that a list cannot hold."""
    for part in parts:
        check_lines(part.names, part.images)
        for name in (*part.names, *part.given.values()):
            if '\t' in name:
                raise SimimError(
                    f'The name {name!r} has a tab, which divides the names '
                    'of a list; rename the file.'
                )


def _pixels(pairs: Pairs) -> Counter[int]:
    """Count the pixels of each value, in evenly spaced maps of many."""
    count = min(LOOKED_AT, len(pairs.names))
    index = np.linspace(0, len(pairs.names) - 1, count).astype(int)
    files = [pairs.label_map(pairs.names[k]) for k in index]
    pixels: Counter[int] = Counter()
    with ThreadPoolExecutor(4) as pool:
        counted = track(
            pool.map(_values, files),
            'Looking at the label maps',
            total=count,
            transient=True,
            disable=not on_terminal(),
        )
        for found in counted:
            pixels.update(found)
    return pixels


def _values(file: str) -> dict[int, int]:
    values, counts = np.unique(read_label_map(file), return_counts=True)
    return dict(zip(map(int, values), map(int, counts), strict=True))


def _listed_names(root: str, file: str | None) -> dict[int, str]:
    """Read the values and names of the classes from a text file."""
    place = Path(file or os.path.join(root, 'classes.txt'))
    if file is None and not place.is_file():
        return {}
    try:
        lines = [
            line for line in read_text(place).splitlines() if line.strip()
        ]
        pairs = [line.split(maxsplit=1) for line in lines]
        found = {int(value): name.strip() for value, name in pairs}
    except (OSError, ValueError) as error:
        raise SimimError(
            f'Cannot read the classes in {place} ({error}); write one class '
            "a line, its value and its name, as in '3 road'."
        ) from error
    if len(found) < len(lines) or len({*found.values()}) < len(lines):
        raise SimimError(
            f'A value or a name stands twice in {place}; write one class a '
            'line.'
        )
    return dict(sorted(found.items()))


def _demo_names(root: str) -> dict[int, str]:
    """Return the classes of the demo's data, {} of others."""
    try:
        content = json.loads(read_text(Path(root, 'manifest.json')))
        return dict(enumerate(map(str, content['segmentation_classes']), 1))
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _classes(
    pixels: Counter[int],
    listed: dict[int, str],
    ignored: Sequence[int] | str | None,
    maps: str,
) -> dict[int, str]:
    """Return the classes by their values."""
    if ignored is None:
        some_left = len({*pixels} - {IGNORED}) >= 2
        ignored = [IGNORED] if some_left and IGNORED not in listed else []
    if isinstance(ignored, str):
        if ignored != 'others' or not listed:
            raise SimimError(
                f'--ignore {ignored} is no list of values; list them, or '
                "write 'others' beside a file of classes."
            )
        ignored = [value for value in pixels if value not in listed]
    present = sorted({*pixels} - {*ignored})
    unknown = [value for value in present if listed and value not in listed]
    if unknown:
        raise SimimError(
            f'The label maps in {maps} have the value {unknown[0]}, which no '
            'line of the class file has; add it there, or ignore it by '
            f'--ignore {unknown[0]}, or all such values by --ignore others.'
        )
    if not listed:
        _check_edges(pixels, maps)
    found = listed or {value: f'class {value}' for value in present}
    found = {v: name for v, name in found.items() if v not in ignored}
    if len(found) < 2 or len(found) > IGNORED:
        raise LabelMapError(
            f'The label maps in {maps} have {len(found)} classes (values '
            f'{", ".join(map(str, present[:5]))}), and 2 to {IGNORED} are '
            'needed; check the values, or list those to ignore by --ignore.'
        )
    return found


def _check_edges(pixels: Counter[int], maps: str) -> None:
    """Refuse masks of 0 and 255 with many values between them."""
    share = (pixels[0] + pixels[IGNORED]) / pixels.total()
    if len(pixels) > MOST_UNNAMED and share > 0.8 and pixels[IGNORED]:
        raise LabelMapError(
            f'The label maps in {maps} have {len(pixels)} values, and 0 and '
            f'{IGNORED} alone are {share:.0%} of the pixels, as in masks with '
            'smoothed edges; save them without smoothing and without JPEG, '
            'or name the classes in classes.txt.'
        )
