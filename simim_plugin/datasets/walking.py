"""Find images below a folder.

All data sets follow the same rules. An image is a file with one of the
``EXTENSIONS``, in upper or lower case. Files and folders whose names start
with a dot are left out. Links to folders are followed, and one walk visits
no folder twice. Names are sorted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..errors import SimimError

StrPath = str | os.PathLike[str]

EXTENSIONS = (
    '.bmp',
    '.gif',
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


def walk_images(
    root: StrPath,
    extensions: Sequence[str] = EXTENSIONS,
    onerror: Callable[[OSError], None] | None = None,
) -> Iterator[list[str]]:
    """Yield the paths of the images in each folder from ``root`` down.

    Args:
        root (str | PathLike): a folder.
        extensions (Sequence[str]): lower-case extensions of image files.
        onerror (Callable, optional): called with the error if a folder
            cannot be listed. Defaults to None: the folder is left out.
    """
    endings = tuple(extensions)
    seen = set()
    for folder, inner, names in os.walk(
        root, onerror=onerror, followlinks=True
    ):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith('.'))
        yield [
            os.path.join(folder, name)
            for name in names
            if name.lower().endswith(endings) and not name.startswith('.')
        ]


def list_images(
    root: StrPath, extensions: Sequence[str] = EXTENSIONS
) -> list[str]:
    """Return the sorted paths of the images below ``root``.

    Raises:
        OSError: if a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    return sorted(
        path
        for paths in walk_images(root, extensions, refuse)
        for path in paths
    )


def class_labels(root: StrPath) -> dict[str, int]:
    """Label the folders in ``root`` by their sorted names, from 0.

    Raises:
        SimimError: if there is no such folder, or none in it.
    """
    names = []
    if os.path.isdir(root):
        names = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    names = sorted(name for name in names if not name.startswith('.'))
    if not names:
        raise SimimError(
            f'There is no folder of classes at {root}; pass a folder that '
            'holds one sub-folder of images per class.'
        )
    return {name: label for label, name in enumerate(names)}


def images_by_class(
    root: StrPath,
    classes: Iterable[str],
    extensions: Sequence[str] = EXTENSIONS,
) -> dict[str, list[str]]:
    """Return the paths of the images in each class folder of ``root``."""
    return {
        name: list_images(os.path.join(root, name), extensions)
        for name in sorted(classes)
    }
