"""A folder of unlabelled images, however it is arranged."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS
from rich.progress import track

from ..errors import SimimError
from .loading import UnreadableImageError

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


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """All images below a folder, without labels or lists.

    ``--cfg-options train_dataloader.dataset.data_root=/my/images`` is all
    that a user gives. Sorted by path; links to folders are followed, once;
    names that start with a dot are left out.

    Args:
        data_root (str): a local folder.
        skip_broken (float): share of the images, 0 to 1, that may prove
            unreadable: each is replaced by another one drawn at random, and
            logged. Counted over all epochs and all loader workers of a
            process, and with :meth:`count_together` over all processes.
            Defaults to 0: the first one stops the run.
        **kwargs: ``pipeline``, ``indices`` and the like of MMPretrain's
            ``BaseDataset``. The pipeline starts with ``LoadRGBImage``.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        SimimError: if ``skip_broken`` is not a share.
    """

    def __init__(
        self, data_root: str, skip_broken: float = 0.0, **kwargs: Any
    ) -> None:
        if not 0 <= skip_broken <= 1:
            raise SimimError(
                f'skip_broken={skip_broken} is not a share: set it to 0 to 1, '
                'such as 0.01 for up to one image in a hundred.'
            )
        self.skip_broken = skip_broken
        super().__init__(
            ann_file='',
            data_root=os.path.expanduser(data_root),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List the images: one ``dict(img_path=...)`` each."""
        root = self.data_root
        mend = (
            'give the folder of your images by --cfg-options '
            'train_dataloader.dataset.data_root=/my/images'
        )
        if not os.path.isdir(root):
            raise FileNotFoundError(f'No image folder at {root!r}: {mend}.')
        folders = track(
            _folders(root),
            description=f'Listing the images in {root}',
            transient=True,
            disable=not is_main_process(),
        )
        data_list = [
            {'img_path': os.path.join(folder, name)}
            for folder, names in folders
            for name in names
            if name.lower().endswith(EXTENSIONS)
        ]
        if not data_list:
            raise FileNotFoundError(
                f'No image ({" ".join(EXTENSIONS)}) in {root!r} or below: '
                f'{mend}.'
            )
        # Shared, so that loader workers count together and across epochs.
        self._broken = torch.zeros(len(data_list), dtype=torch.uint8)
        self._broken.share_memory_()
        return sorted(data_list, key=lambda info: info['img_path'])

    @property
    def num_broken(self) -> int:
        """How many images were skipped so far."""
        return int(self._broken.sum())

    def count_together(self) -> None:
        """Take over what other processes have found broken.

        Raises:
            UnreadableImageError: if too many are.
        """
        all_reduce(self._broken, 'max')
        self._check_share()

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline; None if the image is broken and may be.

        Raises:
            UnreadableImageError: if the image is broken and too many are.
        """
        try:
            return super().prepare_data(idx)
        except UnreadableImageError as error:
            if not self.skip_broken:
                raise
            if not self._broken[idx]:
                self._broken[idx] = True
                self._check_share(f'; the last one: {error}')
                print_log(
                    f'Skipped broken image {self.num_broken} of {len(self)}: '
                    f'{error}',
                    logger='current',
                    level=logging.WARNING,
                )
            return None

    def _check_share(self, last: str = '.') -> None:
        broken, total = self.num_broken, len(self)
        if broken > self.skip_broken * total:
            raise UnreadableImageError(
                f'{broken} of the {total} images in {self.data_root} cannot '
                f'be read, more than skip_broken={self.skip_broken} allows: '
                f'mend the data or raise it{last}'
            )


def _folders(root: str) -> Iterator[tuple[str, list[str]]]:
    """Folders from ``root`` down with the files in each, no folder twice."""
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            inner.clear()  # a link back: go no further
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith('.'))
        yield folder, [name for name in names if not name.startswith('.')]
