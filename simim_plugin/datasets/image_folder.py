"""Unlabelled images of a folder or of archives, in any arrangement."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Sequence
from itertools import chain
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS
from rich.progress import track

from ..errors import SimimError
from ..pictures.archives import ARCHIVES, Member, find_archives
from ..pictures.listing import (
    Groups,
    collecting_later,
    kept,
    list_archives,
)
from ..pictures.walking import EXTENSIONS, Census, walk_images
from ..text import in_markup, on_terminal
from .fingerprint import content_of, fingerprint
from .image_set import ImageSet
from .labelled_folder import read_lines


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
        list_file (str, optional): text file, plain or ``.gz``, with the name
            of one image below ``data_root`` in each line, in this order.
            Defaults to None: all images.
        held_out (int): pictures that are not trained on, for
            ``OnlineMatches``, at most one in 20. Their names and the seed
            choose them, so other pictures change few of them. Defaults
            to 0.
        held_out_seed (int): Defaults to 0.
        **kwargs: ``skip_broken`` of
            :class:`simim_plugin.datasets.image_set.ImageSet`; ``pipeline``,
            ``indices`` and other arguments of MMPretrain's ``BaseDataset``.
            The pipeline starts with ``LoadRGBImage``.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        SimimError: if ``skip_broken`` is not a share, ``held_out`` is
            negative, or a listed image is missing.
    """

    held_out_infos: Sequence[dict] = ()
    """``img_path`` of the images that are held out."""

    def __init__(
        self,
        data_root: str,
        list_file: str | None = None,
        held_out: int = 0,
        held_out_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if held_out < 0:
            raise SimimError(
                f'held_out={held_out} is no number of pictures: set it to 0 '
                'or more.'
            )
        self.list_file = list_file
        self.held_out = held_out
        self.held_out_seed = held_out_seed
        super().__init__(
            ann_file='',
            data_root=os.path.expanduser(data_root),
            **kwargs,
        )

    @collecting_later()
    def load_data_list(self) -> list[dict]:
        """List one ``dict(img_path=...)`` per image."""
        root = self.data_root
        fix = 'pass --cfg-options train_dataloader.dataset.data_root=/images'
        if not (os.path.isdir(root) or find_archives(root)):
            raise FileNotFoundError(f'No image folder at {root!r}: {fix}.')
        census = Census()
        if self.list_file is not None:
            found = self._listed(census)
        else:
            found = kept(root, 'all', EXTENSIONS, census, self._list)['']
        if not found:
            raise FileNotFoundError(
                f'No image ({" ".join(EXTENSIONS)}) in {root!r} or below: '
                f'{fix}.'
            )
        census.report(root)
        infos = self._without_held_out(
            [
                dict(img_path=path, member=tuple(member))
                if member
                else dict(img_path=path)
                for path, member in found
            ]
        )
        kept_paths = {info['img_path'] for info in infos}
        named = [
            f'{path}:{content_of(member)}' if member else path
            for path, member in found
            if path in kept_paths
        ]
        self.fingerprint = fingerprint(named, root)
        return infos

    def _listed(self, census: Census) -> list[tuple[str, Member | None]]:
        """Return the images of the list."""
        if not os.path.isdir(self.data_root):
            raise SimimError(
                f'{self.data_root} is an archive; unpack it to read a list '
                'of images, or set list_file to None.'
            )
        found: dict[str, None] = {}
        for number, name in read_lines(str(self.list_file)):
            path = os.path.join(self.data_root, name)
            if path in found or not os.path.isfile(path):
                fault = 'stands twice' if path in found else 'is no image'
                raise SimimError(
                    f'{name!r} {fault} below {self.data_root}, in line '
                    f'{number} of {self.list_file}; correct data_root or '
                    'list_file.'
                )
            found[path] = None
            census.images[os.path.splitext(name)[1].lower()] += 1
        return [(path, None) for path in found]

    def _list(self, census: Census) -> Groups:
        """List the images of a folder, or of archives if it has none."""
        root = self.data_root
        if os.path.isdir(root):
            folders = track(
                walk_images(root, census=census),
                description=f'Listing the images in {in_markup(root)}',
                transient=True,
                disable=not (is_main_process() and on_terminal()),
            )
            paths = sorted(chain.from_iterable(folders))
            if paths or not find_archives(root):
                return {'': [(path, None) for path in paths]}
            for ending in ARCHIVES:
                census.left.pop(ending, None)
        return list_archives(root, EXTENSIONS, census)

    def _without_held_out(self, infos: list[dict]) -> list[dict]:
        """Set some images apart, and return the others."""
        count = min(self.held_out, len(infos) // 20)
        if not count:
            return infos
        salt = str(self.held_out_seed).encode()

        def rank(info: dict) -> bytes:
            name = os.path.relpath(info['img_path'], self.data_root)
            data = os.fsencode(name.replace(os.sep, '/'))
            return hashlib.blake2b(data, key=salt, digest_size=8).digest()

        apart = heapq.nsmallest(count, infos, key=rank)
        self.held_out_infos = sorted(apart, key=lambda i: i['img_path'])
        print_log(
            f'Of them {count} are held out, and not trained on.', 'current'
        )
        names = {info['img_path'] for info in apart}
        return [info for info in infos if info['img_path'] not in names]
