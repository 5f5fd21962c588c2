"""Name drawn pictures of files, so that none replaces another."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def distinct_names(
    paths: Iterable[str], ending: bool = False
) -> dict[str, str]:
    """Return a name for each file that no other file of the set has.

    It is the stem. Where several files have the same, whatever their case,
    it is their path below the folder that holds all files, with its ending.

    Args:
        paths (Iterable[str]): of the files.
        ending (bool): keep the ending of all names. Defaults to False.

    Returns:
        dict[str, str]: from each path to its name, with forward slashes.
    """
    given = [*dict.fromkeys(paths)]
    full = {path: os.path.abspath(path) for path in given}
    short = {
        path: Path(path).name if ending else Path(path).stem for path in given
    }
    # One file may be given by two paths.
    files = {(short[path].lower(), full[path]) for path in given}
    uses = Counter(name for name, _ in files)
    repeated = [path for path in given if uses[short[path].lower()] > 1]
    if not repeated:
        return short
    root = os.path.commonpath([os.path.dirname(full[path]) for path in given])
    below = {
        path: Path(os.path.relpath(full[path], root)).as_posix()
        for path in given
    }
    names = {**short, **{path: below[path] for path in repeated}}
    return names if len({*names.values()}) == len(files) else below


def names_in(dataset: Any, ending: bool = False) -> dict[str, str]:
    """Return :func:`distinct_names` of the images of a data set.

    Args:
        dataset (Dataset): of mmengine; others have no names.
        ending (bool): see there. Defaults to False.
    """
    info_of = getattr(dataset, 'get_data_info', None)
    if info_of is None:
        return {}
    infos = map(info_of, range(len(dataset)))
    return distinct_names(
        (str(info['img_path']) for info in infos if info.get('img_path')),
        ending,
    )
