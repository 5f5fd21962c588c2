"""A folder of labelled images, all of them or those that a list names."""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.custom import get_samples
from mmpretrain.registry import DATASETS

from ..errors import SimimError
from .robustness import class_folders


@DATASETS.register_module()
class LabelledFolder(CustomDataset):
    """Images below ``data_root/CLASS/``; the classes are its sub-folders.

    Args:
        data_root (str): the folder of class folders. Labels count them in
            alphabetic order, which for ImageNet is the usual one; names
            that start with a dot are left out.
        list_file (str, optional): text file, plain or ``.gz``, with one
            image per line: ``CLASS/NAME``, or the name alone if it is
            ``CLASS_NUMBER.EXTENSION`` as ImageNet's are, for example
            ``n01440764_10026.JPEG``. All images if None.
        **kwargs: ``pipeline`` and others of
            :class:`mmpretrain.datasets.CustomDataset`.

    Raises:
        SimimError: if there is no such folder, no image in it, no such
            list, or a listed image is not there.
    """

    def __init__(
        self, data_root: str, list_file: str | None = None, **kwargs: Any
    ) -> None:
        self.list_file = list_file
        super().__init__(data_root=os.path.expanduser(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        """One ``dict(img_path=..., gt_label=...)`` per image."""
        root = self.img_prefix
        if not os.path.isdir(root):
            raise SimimError(
                f'There is no image folder at {root}; set data_root to a '
                'folder that holds one sub-folder of images per class.'
            )
        if self.list_file is not None:
            return self._listed(Path(root), self.list_file)
        return super().load_data_list()

    def is_valid_file(self, filename: str) -> bool:
        """Whether it is an image, not hidden nor in a hidden folder."""
        return '/.' not in f'/{filename}' and super().is_valid_file(filename)

    def _find_samples(self) -> list[tuple[str, int]]:
        labels = self._labels()
        samples, empty = get_samples(
            self.img_prefix, labels, self.is_valid_file
        )
        if not samples:
            raise SimimError(
                f'There is no image in the sub-folders of {self.img_prefix}; '
                'it needs one sub-folder of images per class.'
            )
        if empty:
            print_log(
                f'{self.img_prefix} has classes without an image: '
                f'{", ".join(sorted(empty))}',
                'current',
                logging.WARNING,
            )
        return samples

    def _labels(self) -> dict[str, int]:
        classes = class_folders(self.img_prefix)
        self._metainfo.setdefault('classes', tuple(classes))
        return {name: label for label, name in enumerate(classes)}

    def _listed(self, root: Path, list_file: str) -> list[dict]:
        labels = self._labels()
        images, missing = [], []
        lines = _read_lines(list_file)
        for line in lines:
            folder, _, name = line.rpartition('/')
            folder = folder or name.rpartition('_')[0]
            path = root / folder / name
            if folder in labels and path.is_file():
                image = dict(img_path=str(path), gt_label=labels[folder])
                images.append(image)
            else:
                missing.append(line)
        if missing:
            more = ', ...' if len(missing) > 3 else ''
            raise SimimError(
                f'{len(missing)} of the {len(lines)} images listed in '
                f'{list_file} are not below {root} '
                f'({", ".join(missing[:3])}{more}); complete the data set '
                'or check data_root and list_file.'
            )
        return images


def check_same_classes(train: Any, name: str, other: Any) -> None:
    """Refuse data sets whose labels stand for other classes.

    Args:
        train (Dataset): of the training.
        name (str): of the other one: 'validation', 'test'.
        other (Dataset): whose classes are to be those of ``train``.

    Raises:
        SimimError: if both name their classes, and they differ.
    """
    ours, theirs = (
        tuple(getattr(dataset, 'metainfo', {}).get('classes') or ())
        for dataset in (train, other)
    )
    if ours and theirs and ours != theirs:
        alone = sorted(set(ours) ^ set(theirs))
        raise SimimError(
            f'The training set has {len(ours)} classes and the {name} set '
            f'{len(theirs)}, and they are not the same ones in the same '
            f'order ({", ".join(alone[:3]) or "the order differs"}'
            f'{", ..." if len(alone) > 3 else ""}): labels would stand for '
            'others; complete the folders, or check data_root.'
        )


def _read_lines(file: str) -> list[str]:
    """The lines of a list that hold something."""
    opened = gzip.open if file.endswith('.gz') else open
    try:
        with opened(file, 'rt', encoding='utf-8') as stream:
            lines = [line.strip() for line in stream if line.strip()]
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise SimimError(
            f'Cannot read the list of images {file} ({error}); set '
            'list_file to a text file, plain or .gz, with one name per line.'
        ) from error
    if not lines:
        raise SimimError(
            f'The list of images {file} is empty; put one name per line.'
        )
    return lines
