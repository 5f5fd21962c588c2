"""Read pictures with a label map each: a class for every pixel."""

from __future__ import annotations

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
from ..pictures.walking import list_images
from ..segmentation.label_maps import (
    IGNORED,
    LOOKED_AT,
    LabelMapError,
    read_label_map,
)
from .splitting import TESTS, TRAINING, check_share, divide, part_named
from .survey import Survey, check_lines, refuse_broken_tests, survey

IMAGES = ('images', 'image', 'img', 'imgs', 'jpegimages', 'leftimg8bit')
MAPS = (
    *('masks', 'mask', 'labels', 'label', 'annotations', 'label_maps'),
    *('segmentationclass', 'seg', 'gt', 'ann', 'anns', 'ann_dir', 'lbl'),
)
"""Usual names of the two folders, in lower case."""

MOST_UNNAMED = 32
"""Values beside 0 and 255 that few pixels of whole masks may have."""

_ENDINGS = ('.png', '.bmp', '.tif', '.tiff', '.gif')


@dataclass(frozen=True)
class Pairs:
    """Pictures of one part and the folders they lie in.

    Args:
        images (str): folder of the pictures.
        maps (str): folder of the label maps.
        names (list[str]): the pictures below ``images``.
        ending (str): of the label maps.
    """

    images: str
    maps: str
    names: list[str]
    ending: str

    def label_map(self, name: str) -> str:
        """Return the label map of a picture."""
        return os.path.join(self.maps, os.path.splitext(name)[0] + self.ending)


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
    """

    train: Pairs
    val: Pairs
    values: dict[int, str]
    ignored: list[int] | str
    shares: dict[int, float]
    pictures: Survey

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their labels."""
        return [*self.values.values()]

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
) -> LabelMaps:
    """Read a folder of pictures and label maps.

    Args:
        root (str): holds ``images`` and ``masks``, each with or without
            ``train`` and ``val``, or ``train`` and ``val``, each with
            ``images`` and ``masks``. Other usual names are known.
        share (float): of the pictures to test on, if there is one part.
        seed (int): of that division.
        names (str, optional): text file with a line ``VALUE NAME`` for each
            class. Defaults to ``classes.txt`` in ``root`` if it is there.
        ignored (Sequence[int] | str, optional): values that stand for no
            class, or 'others': all that ``names`` does not list. Defaults to
            255, if it is found beside two other values.

    Raises:
        SimimError: if pictures or label maps are missing, or there are fewer
            than two classes.
    """
    train, val = _parts(root)
    seen = survey([os.path.join(train.images, name) for name in train.names])
    broken = {os.path.relpath(path, train.images) for path in seen.broken}
    kept = [name for name in train.names if name not in broken]
    train = Pairs(train.images, train.maps, kept, train.ending)
    if val is None:
        check_share(share)
        if len(kept) < 2:
            raise SimimError(
                f'{root} has {len(kept)} picture, which cannot both train '
                'and test; add pairs.'
            )
        parts = divide([None] * len(kept), share, seed)
        train, val = (
            Pairs(train.images, train.maps, [kept[k] for k in p], train.ending)
            for p in parts
        )
    else:
        refuse_broken_tests([os.path.join(val.images, n) for n in val.names])
    for part in (train, val):
        check_lines(part.names, part.images)
    pixels, tested = _pixels(train), _pixels(val)
    listed = _listed_names(root, names)
    found = _classes(pixels + tested, listed, ignored, train.maps)
    left: list[int] | str = sorted({*pixels, *tested} - {*found})
    if ignored == 'others':
        left = 'others'
    total = sum(count for v, count in pixels.items() if v in found)
    shares = {v: pixels[v] / max(total, 1) for v in found}
    return LabelMaps(train, val, found, left, shares, seen)


def _parts(root: str) -> tuple[Pairs, Pairs | None]:
    """Return the pairs to train on, and those to test on if there are."""
    inner = _folders(root)
    train, val = part_named(inner, TRAINING), part_named(inner, TESTS)
    if train and val:
        return tuple(  # type: ignore[return-value]
            _pairs(*_both(os.path.join(root, part))) for part in (train, val)
        )
    images, maps = _both(root)
    train, val = (
        part_named(_folders(images), wanted) for wanted in (TRAINING, TESTS)
    )
    if train and val:
        return tuple(  # type: ignore[return-value]
            _pairs(os.path.join(images, part), os.path.join(maps, part))
            for part in (train, val)
        )
    return _pairs(images, maps), None


def _folders(root: str) -> list[str]:
    if not os.path.isdir(root):
        return []
    return sorted(e.name for e in os.scandir(root) if e.is_dir())


def _both(root: str) -> tuple[str, str]:
    """Return the folder of pictures and that of label maps in a folder."""
    inner = _folders(root)
    images, maps = part_named(inner, IMAGES), part_named(inner, MAPS)
    if images is None or maps is None:
        raise SimimError(
            f'{root} has no folder of pictures and one of label maps beside '
            f'each other (found {", ".join(inner[:5]) or "no folders"}); '
            'call them images and masks.'
        )
    return os.path.join(root, images), os.path.join(root, maps)


def _pairs(images: str, maps: str) -> Pairs:
    names = [os.path.relpath(path, images) for path in list_images(images)]
    if not names:
        raise SimimError(
            f'There is no picture in {images}; pass the folder that holds '
            'images and masks.'
        )
    there = Counter(
        os.path.splitext(path)[1] for path in list_images(maps, _ENDINGS)
    )
    if not there:
        raise SimimError(
            f'There is no label map in {maps} ({" ".join(_ENDINGS)}); save '
            'them as PNG files of class indices.'
        )
    pairs = Pairs(images, maps, names, there.most_common(1)[0][0])
    lacking = [n for n in names if not os.path.isfile(pairs.label_map(n))]
    if lacking:
        raise SimimError(
            f'{len(lacking)} of {len(names)} pictures in {images} have no '
            f'label map, such as {pairs.label_map(lacking[0])}; add them, or '
            'remove the pictures.'
        )
    return pairs


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
