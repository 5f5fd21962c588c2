"""Unlabelled images of a folder or of archives, in any arrangement."""

from __future__ import annotations

import os
from itertools import chain
from typing import Any

from mmengine.dist import is_main_process
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS
from rich.progress import track

from ..pictures.archives import ARCHIVES, find_archives
from ..pictures.listing import Groups, kept, list_archives
from ..pictures.walking import EXTENSIONS, Census, walk_images
from ..text import in_markup
from .fingerprint import content_of, fingerprint
from .image_set import ImageSet


@DATASETS.register_module()
class ImageFolder(ImageSet, BaseDataset):
    """All images below a folder, sorted by path, without labels or lists.

    To train on other images, set the folder:
    ``--cfg-options train_dataloader.dataset.data_root=/my/images``.
    Links to folders are followed once; names that start with a dot are left
    out.

    Args:
        data_root (str): a local folder; or a ``.zip`` or ``.tar`` file, a
            folder of them without other images, or a pattern of them
            (``shard-{000000..000123}.tar``).
        **kwargs: ``skip_broken`` of
            :class:`simim_plugin.datasets.image_set.ImageSet`; ``pipeline``,
            ``indices`` and other arguments of MMPretrain's ``BaseDataset``.
            The pipeline starts with ``LoadRGBImage``.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        SimimError: if ``skip_broken`` is not a share.
    """

    def __init__(self, data_root: str, **kwargs: Any) -> None:
        super().__init__(
            ann_file='',
            data_root=os.path.expanduser(data_root),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List one ``dict(img_path=...)`` per image."""
        root = self.data_root
        fix = 'pass --cfg-options train_dataloader.dataset.data_root=/images'
        if not (os.path.isdir(root) or find_archives(root)):
            raise FileNotFoundError(f'No image folder at {root!r}: {fix}.')
        census = Census()
        found = kept(root, 'all', EXTENSIONS, census, self._list)['']
        if not found:
            raise FileNotFoundError(
                f'No image ({" ".join(EXTENSIONS)}) in {root!r} or below: '
                f'{fix}.'
            )
        named = [
            f'{path}:{content_of(member)}' if member else path
            for path, member in found
        ]
        self.fingerprint = fingerprint(named, root)
        census.report(root)
        return [
            dict(img_path=path, member=tuple(member))
            if member
            else dict(img_path=path)
            for path, member in found
        ]

    def _list(self, census: Census) -> Groups:
        """List the images of a folder, or of archives if it has none."""
        root = self.data_root
        if os.path.isdir(root):
            folders = track(
                walk_images(root, census=census),
                description=f'Listing the images in {in_markup(root)}',
                transient=True,
                disable=not is_main_process(),
            )
            paths = sorted(chain.from_iterable(folders))
            if paths or not find_archives(root):
                return {'': [(path, None) for path in paths]}
            for ending in ARCHIVES:
                census.left.pop(ending, None)
        return list_archives(root, EXTENSIONS, census)
