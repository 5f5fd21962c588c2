"""Find images below a folder.

All data sets follow the same rules. An image is a file with one of the
``EXTENSIONS``, in upper or lower case. Names that start with a dot and
folders that systems leave behind are left out. Links to folders are followed,
and one walk visits no folder twice. Names are sorted. A folder that may not
be listed is an error.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NoReturn

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from PIL import features

from ..errors import SimimError
from ..text import clean

StrPath = str | os.PathLike[str]

EXTENSIONS = (
    *(['.avif'] if features.check('avif') else []),
    '.bmp',
    *(['.dcm'] if find_spec('pydicom') else []),
    '.gif',
    '.jfif',
    '.jp2',
    '.jpeg',
    '.jpg',
    '.pgm',
    '.png',
    '.ppm',
    '.tif',
    '.tiff',
    '.webp',
)

SYSTEM_FOLDERS = (
    '#recycle',
    '#snapshot',
    '$recycle.bin',
    '@eadir',
    '@recycle',
    '__macosx',
    '__pycache__',
    'lost+found',
    'system volume information',
)
"""Lower-case names of folders that systems and tools leave behind."""


class Census:
    """Count the images that a walk finds and the files that it leaves."""

    def __init__(self) -> None:
        self.images: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.repeated: list[str] = []
        self.lost: list[str] = []
        self.stamps: dict[str, list[int]] = {}

    def stamp(self, path: str, status: os.stat_result | None = None) -> None:
        """Note the time of a folder or an archive that is listed."""
        found = status or os.stat(path)
        self.stamps[path] = [found.st_mtime_ns, found.st_ino, found.st_size]

    def report(self, root: StrPath) -> None:
        """Log the counts by ending, in the main process only."""
        if not is_main_process():
            return
        place = os.fspath(root).rstrip('/')
        text = f'Found {_counted("image", self.images)} in {place}'
        if self.left:
            text += f'; left {_counted("other file", self.left)}'
        if self.repeated:
            text += (
                f'; left {len(self.repeated)} links to folders that were '
                f'listed already ({self.repeated[0]})'
            )
        if self.lost:
            text += (
                f'; left {len(self.lost)} links that lead nowhere '
                f'({self.lost[0]})'
            )
        print_log(clean(f'{text}.'), logger='current')


def walk_images(
    root: StrPath,
    extensions: Sequence[str] = EXTENSIONS,
    census: Census | None = None,
    fence: Collection[tuple[int, int]] = (),
) -> Iterator[list[str]]:
    """Yield the paths of the images in each folder from ``root`` down.

    Args:
        root (str | PathLike): a folder.
        extensions (Sequence[str]): lower-case extensions of image files.
        census (Census, optional): counts the files.
        fence (Collection[tuple[int, int]]): device and inode of folders that
            no link may lead to.

    Raises:
        SimimError: if a folder cannot be listed, or is behind the fence.
    """
    endings, census = tuple(extensions), census or Census()
    seen: set[tuple[int, int]] = set()
    walk = os.walk(root, onerror=_refuse, followlinks=True)
    for folder, inner, names in walk:
        try:
            status = os.stat(folder)
        except OSError as error:
            _refuse(error)
        place = status.st_dev, status.st_ino
        if place in fence:
            raise SimimError(
                f'{folder} is a link to a folder that holds it, so a class '
                'would get the images of all classes; remove the link.'
            )
        if place in seen:
            census.repeated.append(folder)
            inner.clear()
            continue
        seen.add(place)
        census.stamp(folder, status)
        inner[:] = sorted(name for name in inner if is_listed(name))
        paths = []
        for name in filter(is_listed, names):
            ending = os.path.splitext(name)[1].lower()
            if name.lower().endswith(endings):
                paths.append(os.path.join(folder, name))
                census.images[ending] += 1
            elif not ending and _is_lost(os.path.join(folder, name)):
                census.lost.append(os.path.join(folder, name))
            else:
                census.left[ending] += 1
        yield paths


def list_images(
    root: StrPath,
    extensions: Sequence[str] = EXTENSIONS,
    census: Census | None = None,
) -> list[str]:
    """Return the sorted paths of the images below ``root``.

    The arguments and errors are those of :func:`walk_images`.
    """
    walk = walk_images(root, extensions, census)
    return sorted(path for paths in walk for path in paths)


def is_listed(name: str) -> bool:
    """Return whether a file or folder of this name is looked into."""
    return not name.startswith('.') and name.lower() not in SYSTEM_FOLDERS


def class_folders(root: StrPath) -> list[str]:
    """Return the sorted names of the folders in ``root``.

    Raises:
        SimimError: if ``root`` cannot be listed, or a link in it is a loop
            or leads nowhere.
    """
    names = []
    try:
        for name in filter(is_listed, sorted(os.listdir(root))):
            path = os.path.join(root, name)
            if os.path.isdir(path):
                names.append(name)
            elif os.path.islink(path):
                os.stat(path)  # raises for a loop, and for a lost target
    except OSError as error:
        _refuse(error)
    return names


def class_labels(
    root: StrPath, extensions: Sequence[str] = EXTENSIONS
) -> dict[str, int]:
    """Label the folders with images in ``root``, sorted by name, from 0.

    Raises:
        SimimError: if there is no such folder, or none in it.
    """
    names = class_folders(root) if os.path.isdir(root) else []
    if not names:
        raise SimimError(
            f'There is no folder of classes at {root}; pass a folder that '
            'holds one sub-folder of images per class.'
        )
    full = (
        name
        for name in names
        if any(walk_images(os.path.join(root, name), extensions))
    )
    return {name: label for label, name in enumerate(full)}


def images_by_class(
    root: StrPath,
    classes: Iterable[str],
    extensions: Sequence[str] = EXTENSIONS,
    census: Census | None = None,
) -> dict[str, list[str]]:
    """Return the paths of the images in each class folder of ``root``.

    Raises:
        SimimError: if a folder cannot be listed, or a link in it leads back
            to ``root`` or above.
    """
    fence = _folders_above(root)
    return {
        name: sorted(
            chain.from_iterable(
                walk_images(
                    os.path.join(root, name), extensions, census, fence
                )
            )
        )
        for name in sorted(classes)
    }


def _is_lost(path: str) -> bool:
    """Return whether a path is a link whose target does not exist."""
    return os.path.islink(path) and not os.path.exists(path)


def _folders_above(root: StrPath) -> set[tuple[int, int]]:
    """Return device and inode of a folder and of all that hold it."""
    path = Path(root).resolve()
    found = [os.stat(folder) for folder in (path, *path.parents)]
    return {(status.st_dev, status.st_ino) for status in found}


def _refuse(error: OSError) -> NoReturn:
    raise SimimError(
        f'Cannot list the folder {error.filename} ({error.strerror}), so its '
        'images would be left out; allow or restore it, or move it away.'
    ) from error


def _counted(what: str, endings: Counter[str]) -> str:
    """Return '12 images (10 .jpg, 2 .png)'."""
    parts = [
        f'{count} {ending or "without ending"}'
        for ending, count in sorted(
            endings.items(), key=lambda item: (-item[1], item[0])
        )
    ]
    more = ', ...' if len(parts) > 8 else ''
    total = endings.total()
    return f'{total} {what}{"s" * (total != 1)} ({", ".join(parts[:8])}{more})'
