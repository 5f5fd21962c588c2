"""A folder of labelled images: all of them, or those of a list."""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from ..errors import SimimError
from ..files import check_regular
from ..pictures.archives import find_archives
from ..pictures.listing import (
    Groups,
    collecting_later,
    kept,
    list_labelled_archives,
)
from ..pictures.walking import (
    EXTENSIONS,
    Census,
    class_folders,
    class_labels,
    images_by_class,
)
from ..text import clean, some
from .image_set import ImageSet


@DATASETS.register_module()
class LabelledFolder(ImageSet, CustomDataset):
    """Images below ``data_root/CLASS/``; the sub-folders are the classes.

    Args:
        data_root (str): the folder of class folders. A label is the index
            of a folder in alphabetical order, which is ImageNet's usual
            one. Folders that are hidden, a system's or without images are
            left out. Archives are read too: their class folders, or the
            ``.cls`` files of webdataset shards.
        list_file (str, optional): text file, plain or ``.gz``, with one
            image per line: ``CLASS/NAME``, or the name alone if it is
            ``CLASS_NUMBER.EXTENSION`` as in ImageNet, for example
            ``n01440764_10026.JPEG``. Defaults to None: all images.
        ann_file (str): text file with a line ``PATH LABEL`` for each image,
            the path below ``data_root``. Defaults to '': labels are those of
            the folders.
        **kwargs: ``skip_broken`` of
            :class:`simim_plugin.datasets.image_set.ImageSet`; ``pipeline``
            and other arguments of
            :class:`mmpretrain.datasets.CustomDataset`.

    Raises:
        SimimError: if the folder or a list is missing, the folder holds no
            image, a listed image is missing, or a label is none.
    """

    least_classes = 0
    """The highest label of a list plus one, 0 without a list."""

    def __init__(
        self, data_root: str, list_file: str | None = None, **kwargs: Any
    ) -> None:
        self.list_file = list_file
        kwargs.setdefault('extensions', EXTENSIONS)
        super().__init__(data_root=os.path.expanduser(data_root), **kwargs)

    @collecting_later()
    def load_data_list(self) -> list[dict]:
        """List one ``dict(img_path=..., gt_label=...)`` per image."""
        root = self.img_prefix
        archives = not os.path.isdir(root) and bool(find_archives(root))
        if not (os.path.isdir(root) or archives):
            raise SimimError(
                f'There is no image folder at {root}; set data_root to a '
                'folder that holds one sub-folder of images per class.'
            )
        if archives and (self.ann_file or self.list_file is not None):
            raise SimimError(
                f'{root} is an archive, whose class folders or .cls files '
                'label it; unpack it to read a list of images.'
            )
        if self.ann_file and self.list_file is not None:
            raise SimimError(
                f'The data set of {root} has an ann_file and a list_file; '
                'set one of them to None or an empty name.'
            )
        if self.ann_file and self.with_label:
            return self._labelled_list(Path(root))
        if self.ann_file:
            return super().load_data_list()
        if self.list_file is not None:
            labels = class_labels(root, self.extensions)
            self._name_classes(labels)
            return _listed_images(Path(root), labels, self.list_file)
        images = self._images_by_class(root)
        self._name_classes(images)
        return [
            dict(img_path=path, gt_label=label, member=tuple(member))
            if member
            else dict(img_path=path, gt_label=label)
            for label, found in enumerate(images.values())
            for path, member in found
        ]

    def _name_classes(self, folders: Iterable[str]) -> None:
        """Name the classes by their folders, unless names are given."""
        self.folders = tuple(map(clean, folders))
        given = self._metainfo.setdefault('classes', self.folders)
        if len(given) != len(self.folders):
            raise SimimError(
                f'{self.img_prefix} has {len(self.folders)} classes and '
                f'metainfo.classes names {len(given)}; complete the folders, '
                'or correct the names.'
            )
        names = tuple(map(str, given))
        if sorted(names) == sorted(self.folders) and names != self.folders:
            raise SimimError(
                f'metainfo.classes names the folders of {self.img_prefix} in '
                f'another order ({some(names)}), and labels follow that of '
                f'the folders ({some(self.folders)}); give the names in that '
                'order, or leave them out.'
            )

    def _labelled_list(self, root: Path) -> list[dict]:
        """List the images of ``ann_file``, a path and a label a line."""
        classes = self._metainfo.get('classes')
        most = len(classes) if classes else None
        images: list[dict] = []
        seen: dict[str, str] = {}
        for number, line in read_lines(self.ann_file):
            name, label = [*line.rsplit(maxsplit=1), ''][:2]
            where = f'line {number} of {self.ann_file}'
            if not label.isdecimal() or (most and int(label) >= most):
                highest = f' to {most - 1}' if most else ''
                raise SimimError(
                    f'The label {label!r} in {where} is no whole number from '
                    f'0{highest}; write a path and a label, the number of a '
                    'class, counted from 0.'
                )
            if seen.setdefault(name, label) != label:
                raise SimimError(
                    f'{name!r} in {where} has the label {seen[name]} in an '
                    'earlier line; remove one of them.'
                )
            if not (root / name).is_file():
                raise SimimError(
                    f'There is no image {name!r} below {root}, which {where} '
                    'names; check data_root and the list.'
                )
            images.append(dict(img_path=str(root / name), gt_label=int(label)))
        self.least_classes = 1 + max(one['gt_label'] for one in images)
        return images

    def _list(self, census: Census) -> Groups:
        """List the images of class folders, or of archives without any."""
        root, extensions = self.img_prefix, self.extensions
        if os.path.isdir(root):
            names = class_folders(root)
            census.stamp(root)
            found = images_by_class(root, names, extensions, census)
            if any(found.values()) or not find_archives(root):
                return {
                    name: [(path, None) for path in paths]
                    for name, paths in found.items()
                }
        return list_labelled_archives(root, extensions, census)

    def _images_by_class(self, root: str) -> Groups:
        census = Census()
        folders = kept(root, 'classes', self.extensions, census, self._list)
        # The numbers of .cls files are labels: none may move up.
        numbered = any(
            member for found in folders.values() for _, member in found[:1]
        )
        images = {
            name: found for name, found in folders.items() if found or numbered
        }
        if not images:
            raise SimimError(
                f'There is no image in the sub-folders of {root}; it needs '
                'one sub-folder of images per class.'
            )
        census.report(root)
        if len(images) < len(folders):
            empty = ', '.join(sorted(folders.keys() - images.keys()))
            print_log(
                clean(
                    f'{root} has folders without an image, which are no '
                    f'classes: {empty}.'
                ),
                'current',
                logging.WARNING,
            )
        return images


def check_same_classes(train: Any, name: str, other: Any) -> None:
    """Check that two data sets have the same classes in the same order.

    Args:
        train (Dataset): the training set.
        name (str): the role of the other set: 'validation' or 'test'.
        other (Dataset): the other set.

    Raises:
        SimimError: if both name their classes and the names differ.
    """
    named = all(hasattr(dataset, 'folders') for dataset in (train, other))
    ours, theirs = (
        dataset.folders
        if named  # other names may be given to them
        else tuple(getattr(dataset, 'metainfo', {}).get('classes') or ())
        for dataset in (train, other)
    )
    if ours and theirs and ours != theirs:
        alone = sorted(set(ours) ^ set(theirs))
        raise SimimError(
            f'The training set has {len(ours)} classes and the {name} set '
            f'{len(theirs)}, and they are not the same ones in the same '
            f'order ({some(alone) or "the order differs"}): labels would '
            'stand for others; complete the folders, or check data_root.'
        )


def _listed_images(
    root: Path, labels: Mapping[str, int], list_file: str
) -> list[dict]:
    """Return the images of a list, in its order."""
    images, missing = [], []
    lines = read_lines(list_file)
    for _, line in lines:
        folder, _, name = line.rpartition('/')
        folder = folder.partition('/')[0] or name.rpartition('_')[0]
        path = root / (line if '/' in line else f'{folder}/{name}')
        if folder in labels and path.is_file():
            images.append(dict(img_path=str(path), gt_label=labels[folder]))
        else:
            missing.append(line)
    if missing:
        raise SimimError(
            f'{len(missing)} of the {len(lines)} images listed in '
            f'{list_file} are not below {root} ({some(missing)}); complete '
            'the data set or check data_root and list_file.'
        )
    return images


def read_lines(file: str) -> list[tuple[int, str]]:
    """Return the lines of a list and their numbers, without blank ones."""
    opened = gzip.open if file.endswith('.gz') else open
    try:
        check_regular(file)
        with opened(file, 'rt', encoding='utf-8-sig') as stream:
            lines = [
                (number, line.strip())
                for number, line in enumerate(stream, 1)
                if line.strip()
            ]
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise SimimError(
            f'Cannot read the list of images {file} ({error}); save it as '
            'UTF-8 text, plain or .gz, with one name per line.'
        ) from error
    if not lines:
        raise SimimError(
            f'The list of images {file} is empty; put one name per line.'
        )
    return lines
