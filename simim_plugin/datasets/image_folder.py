"""Unlabelled images below a folder, in any arrangement."""

from __future__ import annotations

import logging
import os
from itertools import chain
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS
from rich.progress import track

from ..errors import SimimError
from ..pictures import UnreadableImageError, window_of
from ..pictures.walking import EXTENSIONS, Census, walk_images
from ..text import clean, in_markup
from .fingerprint import fingerprint
from .loading import LoadRGBImage


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """All images below a folder, sorted by path, without labels or lists.

    To train on other images, set the folder:
    ``--cfg-options train_dataloader.dataset.data_root=/my/images``.
    Links to folders are followed once; names that start with a dot are left
    out.

    Args:
        data_root (str): a local folder.
        skip_broken (float): largest share of unreadable images, 0 to 1.
            Each of them is logged and replaced by another image drawn at
            random. All epochs and loader workers of a process count
            together; :meth:`count_together` adds the other processes.
            Defaults to 0: the first unreadable image stops the run.
        **kwargs: ``pipeline``, ``indices`` and other arguments of
            MMPretrain's ``BaseDataset``. The pipeline starts with
            ``LoadRGBImage``.

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
        """List one ``dict(img_path=...)`` per image."""
        root = self.data_root
        fix = 'pass --cfg-options train_dataloader.dataset.data_root=/images'
        if not os.path.isdir(root):
            raise FileNotFoundError(f'No image folder at {root!r}: {fix}.')
        census = Census()
        folders = track(
            walk_images(root, census=census),
            description=f'Listing the images in {in_markup(root)}',
            transient=True,
            disable=not is_main_process(),
        )
        paths = sorted(chain.from_iterable(folders))
        if not paths:
            raise FileNotFoundError(
                f'No image ({" ".join(EXTENSIONS)}) in {root!r} or below: '
                f'{fix}.'
            )
        self.fingerprint = fingerprint(paths, root)
        census.report(root)
        self._find_window(paths)
        # One flag per image, in memory that loader workers share.
        self._broken = torch.zeros(len(paths), dtype=torch.uint8)
        self._broken.share_memory_()
        return [dict(img_path=path) for path in paths]

    def _find_window(self, paths: list[str]) -> None:
        """Measure the window of a ``LoadRGBImage`` that asks for it."""
        for load in self.pipeline.transforms:
            if isinstance(load, LoadRGBImage) and load.window == 'percentiles':
                load.window = window_of(paths)
                print_log(
                    f'The images in {clean(self.data_root)} are read by '
                    f'window={load.window}; set it in LoadRGBImage where '
                    'other sets of them are read.',
                    logger='current',
                )

    @property
    def num_broken(self) -> int:
        """Number of images skipped so far."""
        return int(self._broken.sum())

    def count_together(self) -> None:
        """Add the broken images that other processes have found.

        Raises:
            UnreadableImageError: if there are more than ``skip_broken``.
        """
        all_reduce(self._broken, 'max')
        self._check_share()

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline; return None for a broken image to be replaced.

        Raises:
            UnreadableImageError: if the image is broken and the share of
                broken images exceeds ``skip_broken``.
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
                f'fix the data or raise it{last}'
            )
