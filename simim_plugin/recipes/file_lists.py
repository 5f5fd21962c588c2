"""Read lists of pictures: text or CSV, with a label in each line or none."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import SimimError
from ..files import check_regular
from ..pictures.walking import EXTENSIONS
from .class_folders import Labelled
from .splitting import check_share, divide
from .survey import (
    check_lines,
    real_paths,
    refuse_broken_tests,
    refuse_links,
    survey,
)

ENDINGS = ('.txt', '.lst', '.csv', '.tsv')
"""Endings of lists, in lower case."""

PATHS = (
    *('path', 'file', 'filename', 'file_name', 'filepath', 'file_path'),
    *('image', 'img', 'image_path', 'img_path', 'picture', 'name'),
)
LABELS = ('label', 'class', 'class_name', 'category', 'target', 'species')
MASKS = (
    *('mask', 'masks', 'label_map', 'label', 'labels', 'annotation'),
    *('segmentation', 'seg_map', 'segmap', 'ann', 'gt', 'target'),
)
"""Names of the columns in the header of a CSV file, in lower case."""


class Listed(NamedTuple):
    """A line of a list.

    Args:
        number (int): of the line, from 1.
        path (str): absolute.
        label (str): '' in a list without labels; the path of the label map
            in a list of pairs.
    """

    number: int
    path: str
    label: str


def is_list(data: str | os.PathLike[str]) -> bool:
    """Return whether a file is a list of pictures, by its ending."""
    return os.fspath(data).lower().endswith(ENDINGS) and os.path.isfile(data)


def read_list(file: str, labelled: bool) -> list[Listed]:
    """Read and check a list of pictures.

    Args:
        file (str): text, or CSV with or without a header. Paths are
            absolute, below the folder of the list, or below the current one.
        labelled (bool): whether a label follows each path.

    Raises:
        SimimError: if the file cannot be read, or naming the first line
            without a picture or label, or whose picture stands in another.
    """
    rows = list(_rows(file, labelled))
    if not rows:
        raise SimimError(f'The list {file} has no picture; add lines to it.')
    folder = os.path.dirname(os.path.abspath(file))
    first = rows[0][1]
    if not os.path.isfile(os.path.join(folder, first)):
        here = os.getcwd()
        folder = here if os.path.isfile(os.path.join(here, first)) else folder
    found: list[Listed] = []
    lines: dict[str, int] = {}
    for number, name, label in rows:
        path = os.path.normpath(os.path.join(folder, name))
        where = f'line {number} of {file}'
        if not name or not os.path.isfile(path):
            raise SimimError(
                f'There is no picture {name!r} below {folder}, which {where} '
                f'names; a line is {_form(labelled)}.'
            )
        if not path.lower().endswith(EXTENSIONS):
            raise SimimError(
                f'{name!r} in {where} is no picture by its ending; remove the '
                'line.'
            )
        if labelled and (not label or len(label.splitlines()) != 1):
            raise SimimError(
                f'There is no label in {where}; a line is {_form(labelled)}.'
            )
        if path in lines:
            raise SimimError(
                f'{name!r} in {where} stands in line {lines[path]} too; '
                'remove one of them.'
            )
        lines[path] = number
        found.append(Listed(number, path, label))
    return found


def _is_table(file: str) -> bool:
    return file.lower().endswith(('.csv', '.tsv'))


def read_pairs(file: str, endings: Sequence[str]) -> list[Listed]:
    """Read and check a list of pictures and label maps.

    Args:
        file (str): as in :func:`read_list`, with a label map behind each
            picture.
        endings (Sequence[str]): of label maps, in lower case.

    Raises:
        SimimError: if the file cannot be read, or naming the first line
            without two files, or whose picture stands in another.
    """
    table = _is_table(file)
    rows = list(_rows(file, labelled=table, labels=MASKS))
    if not rows:
        raise SimimError(f'The list {file} has no pair; add lines to it.')
    beside = os.path.dirname(os.path.abspath(file))
    found: list[Listed] = []
    lines: dict[str, int] = {}
    for number, *cells in rows:
        where = f'line {number} of {file}'
        both = next(
            (
                (os.path.normpath(first), os.path.normpath(second))
                for folder in (beside, os.getcwd())
                for first, second in _couples(cells, folder, table)
                if os.path.isfile(first) and os.path.isfile(second)
            ),
            None,
        )
        if both is None:
            raise SimimError(
                f'There are no two files {" ".join(cells).strip()!r} below '
                f'{beside}, which {where} names; a line is the path of a '
                'picture, a blank or comma, and the path of its label map.'
            )
        for path, known in zip(both, (EXTENSIONS, endings), strict=True):
            if not path.lower().endswith(tuple(known)):
                raise SimimError(
                    f'{path} in {where} has none of the endings '
                    f'{" ".join(known)}; save it in another format.'
                )
        if both[0] in lines:
            raise SimimError(
                f'{both[0]} in {where} stands in line {lines[both[0]]} too; '
                'remove one of them.'
            )
        lines[both[0]] = number
        found.append(Listed(number, *both))
    return found


def _couples(
    cells: Sequence[str], folder: str, table: bool
) -> Iterator[tuple[str, str]]:
    """Yield the paths that a line may mean; names may have blanks."""
    if table:
        pairs = [(cells[0], cells[1])]
    else:
        line = cells[0]
        pairs = [
            (line[: cut.start()], line[cut.end() :])
            for cut in re.finditer(r'\s*[,;\t]\s*|\s+', line)
        ]
    for first, second in pairs:
        if first and second:
            yield os.path.join(folder, first), os.path.join(folder, second)


def _form(labelled: bool) -> str:
    return 'a path, a blank or tab, and a label' if labelled else 'a path'


def _rows(
    file: str, labelled: bool, labels: Sequence[str] = LABELS
) -> Iterator[tuple[int, str, str]]:
    """Yield the number, path and label of each line that is not blank."""
    try:
        check_regular(file)
        text = Path(file).read_text(encoding='utf-8-sig')
    except (OSError, UnicodeError) as error:
        raise SimimError(
            f'Cannot read the list {file} ({error}); save it as UTF-8.'
        ) from error
    if _is_table(file):
        yield from _table_rows(file, text, labelled, labels)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        path, label = line.strip(), ''
        if labelled:
            cut = '\t' if '\t' in path else None
            path, *rest = path.rsplit(cut, 1)
            label = rest[0].strip() if rest else ''
        yield number, path.strip(), label


def _table_rows(
    file: str, text: str, labelled: bool, labels: Sequence[str]
) -> Iterator[tuple[int, str, str]]:
    lines = text.splitlines()
    head = next(filter(str.strip, lines), '')
    cut = max('\t,;', key=head.count)
    reader = csv.reader(lines, delimiter=cut, strict=True)
    columns: list[int] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not columns:
                columns = _columns(cells, file, labelled, labels)
                if columns != [-1]:
                    continue
                columns = [0, 1]
            path, label = (cells[k] if k < len(cells) else '' for k in columns)
            yield reader.line_num, path, label if labelled else ''
    except csv.Error as error:
        raise SimimError(
            f'Line {reader.line_num} of {file} is no CSV ({error}); correct '
            'its quotes.'
        ) from error


def _columns(
    cells: Sequence[str], file: str, labelled: bool, known: Sequence[str]
) -> list[int]:
    """Return the columns of path and label, or [-1] without a header."""
    names = [cell.lower() for cell in cells]
    paths = [k for k, name in enumerate(names) if name in PATHS]
    labels = [k for k, name in enumerate(names) if name in known]
    if not paths:
        return [-1]
    others = [k for k in range(len(names)) if k != paths[0]]
    labels = labels or (others if len(others) == 1 else [])
    if labelled and len(labels) != 1:
        raise SimimError(
            f'The header of {file} has {len(labels)} columns of labels among '
            f'{", ".join(cells)}; call one of them {known[0]}.'
        )
    return [paths[0], labels[0] if labels else len(names)]


def common_folder(paths: Sequence[str]) -> str:
    """Return the deepest folder that holds all paths."""
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def below(paths: Sequence[str], root: str) -> list[str]:
    """Return the lines of a list: paths below a folder."""
    lines = [Path(path).relative_to(root).as_posix() for path in paths]
    check_lines(lines, root)
    return lines


def read_labelled_lists(
    train: str, val: str | None, share: float, seed: int
) -> Labelled:
    """Read a list of labelled pictures to train on, and one to test on.

    Args:
        train (str): a list; see :func:`read_list`.
        val (str, optional): another. Defaults to None: the first is divided.
        share (float): of each class to test on, if there is one list.
        seed (int): of that division.

    Raises:
        SimimError: for a wrong line, a picture in both lists, fewer than two
            classes, or a class that is in one part only.
    """
    if val and not is_list(val):
        raise SimimError(
            f'There is no list {val} ({" ".join(ENDINGS)}); check --val-data.'
        )
    ours = read_list(train, labelled=True)
    theirs = read_list(val, labelled=True) if val else []
    _check_classes(ours, theirs, train, val)
    if not val:
        refuse_links([one.path for one in ours])
    seen = survey([one.path for one in ours], every=True)
    broken = {*seen.broken}
    ours = [one for one in ours if one.path not in broken]
    if val:
        refuse_broken_tests([one.path for one in theirs])
    else:
        check_share(share)
        both = divide([one.label for one in ours], share, seed)
        ours, theirs = ([ours[k] for k in part] for part in both)
    names = _in_order({one.label for one in ours})
    lacking = {one.label for one in theirs} ^ {*names}
    if lacking:
        raise SimimError(
            f'The class {min(lacking)} of {train} has pictures in one part '
            'only, to train or to test on; list two or more that can be read.'
        )
    root = common_folder([one.path for one in ours + theirs])
    lists = {'classes': names}
    counts = []
    for part, chosen in (('train', ours), ('val', theirs)):
        lines = below([one.path for one in chosen], root)
        lists[part] = [
            f'{line} {names.index(one.label)}'
            for line, one in zip(lines, chosen, strict=True)
        ]
        number = Counter(one.label for one in chosen)
        counts.append({name: number[name] for name in names})
    trained, tested = counts
    seen = seen.without_broken()
    return Labelled(root, root, lists, trained, tested, seen)


def _check_classes(
    ours: Sequence[Listed],
    theirs: Sequence[Listed],
    train: str,
    val: str | None,
) -> None:
    trained = {*real_paths(one.path for one in ours)}
    tested = real_paths(one.path for one in theirs)
    for one, real in zip(theirs, tested, strict=True):
        if real in trained:
            raise SimimError(
                f'{one.path} in line {one.number} of {val} stands in {train} '
                'too; test on other pictures.'
            )
    labels = Counter(one.label for one in ours)
    if len(labels) < 2:
        raise SimimError(
            f'{train} has {len(labels)} class, and a classifier needs two or '
            'more; check the labels.'
        )
    for one in theirs:
        if one.label not in labels:
            raise SimimError(
                f'The label {one.label!r} in line {one.number} of {val} '
                f'stands in no line of {train}; correct it.'
            )


def _in_order(labels: set[str]) -> list[str]:
    """Sort labels, whole numbers by their value."""
    if all(label.isdecimal() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)
