"""COCO and LVIS data sets that check their files before a run starts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from math import sqrt
from typing import Any

import torch
from mmdet.datasets import CocoDataset, LVISV1Dataset
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.dataset import InfiniteSampler

from ..datasets.annotated import prefer_upright
from ..environment import require
from ..errors import SimimError


class _Checked:
    """A COCO data set that refuses missing or unfit files in one sentence."""

    ann_file: str
    metainfo: dict
    cat_ids: list[int]
    test_mode: bool

    def __init__(
        self, *args: Any, upright: bool | None = None, **kwargs: Any
    ) -> None:
        self.upright = upright
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images; called by the base class.

        Raises:
            SimimError: if the annotation file or images are missing, the
                classes are not those of the file, or there is no object.
                Test files without an ``annotations`` key are accepted.
        """
        if not os.path.isfile(self.ann_file):
            raise SimimError(
                f'There is no annotation file {self.ann_file}; set data_root '
                'and ann_file of the data set.'
            )
        listed: list[dict] = super().load_data_list()  # type: ignore[misc]
        self._check_objects(listed)
        self._check_images(listed)
        upright = prefer_upright(listed, self.ann_file, self.upright)
        for item in listed:
            item['upright'] = upright
        return listed

    def _check_objects(self, listed: list[dict]) -> None:
        classes = self.metainfo['classes']
        if len(self.cat_ids) != len(classes):
            raise SimimError(
                f'The data set has {len(classes)} classes '
                f'({", ".join(classes[:3])}, ...), of which the annotation '
                f'file {self.ann_file} has {len(self.cat_ids)}; set '
                'metainfo=dict(classes=...) to the names in the file.'
            )
        if not any(item['instances'] for item in listed) and not (
            listed and self.test_mode and _is_unlabelled(self.ann_file)
        ):
            raise SimimError(
                f'The annotation file {self.ann_file} has {len(listed)} '
                'images and no object of the classes in them; check that it '
                'is the file of this data set.'
            )

    def _check_images(self, listed: list[dict]) -> None:
        names = cache(_names)
        missing = [
            path
            for path in (item['img_path'] for item in listed)
            if os.path.basename(path) not in names(os.path.dirname(path))
        ]
        if missing:
            more = ', ...' if len(missing) > 3 else ''
            raise SimimError(
                f'Of the {len(listed)} images in {self.ann_file} '
                f'{len(missing)} are missing ({", ".join(missing[:3])}'
                f'{more}); set data_prefix of the data set, or get them.'
            )


def _is_unlabelled(file: str) -> bool:
    with open(file) as opened:
        return 'annotations' not in json.load(opened)


def _names(folder: str) -> set[str]:
    """Return the files in a folder, none if it is missing."""
    return set(os.listdir(folder)) if os.path.isdir(folder) else set()


@DATASETS.register_module()
class CheckedCocoDataset(_Checked, CocoDataset):
    """MMDetection's ``CocoDataset``, with files checked at the start.

    Args:
        upright (bool, optional): whether annotations that fit an image as
            stored and turned by its EXIF orientation are of the turned one.
            Defaults to None: as most others of the set, else as stored.
        **kwargs: see :class:`mmdet.datasets.CocoDataset`.
    """


@DATASETS.register_module()
class CheckedLVISDataset(_Checked, LVISV1Dataset):
    """MMDetection's ``LVISV1Dataset``, with files checked at the start.

    For categories other than LVIS's, list their names in ``metainfo`` in the
    order of their ids.
    """

    def load_data_list(self) -> list[dict]:
        """List the images; called by the base class.

        Raises:
            MissingDependency: if the LVIS API is not installed.
            SimimError: as in :class:`CheckedCocoDataset`.
        """
        require('LVIS evaluation')
        return super().load_data_list()


@DATA_SAMPLERS.register_module()
class RepeatFactorSampler(InfiniteSampler):
    """Endless sampling that repeats rare categories (Gupta et al. 2019).

    A category in a share f of the images has the factor max(1, sqrt(t / f)).
    An image repeats by the largest factor of its categories, whose fraction
    is rounded up or down at random in every epoch, as in Detectron2.
    mmengine's ``ClassBalancedDataset`` always rounds up.

    Args:
        dataset (BaseDetDataset): the training set.
        threshold (float): t. Defaults to 0.001.
        seed (int, optional): see :class:`mmengine.dataset.InfiniteSampler`.
    """

    def __init__(
        self, dataset: Any, threshold: float = 0.001, seed: int | None = None
    ) -> None:
        present = [set(dataset.get_cat_ids(i)) for i in range(len(dataset))]
        images = Counter(c for categories in present for c in categories)
        repeat = {
            category: max(1, sqrt(threshold * len(dataset) / count))
            for category, count in images.items()
        }
        self.repeats = torch.tensor(
            [max((repeat[c] for c in cats), default=1) for cats in present]
        )
        super().__init__(dataset, shuffle=True, seed=seed)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            chance = torch.rand(len(self.repeats), generator=generator)
            times = (self.repeats + chance).floor().long()
            epoch = torch.arange(len(times)).repeat_interleave(times)
            order = torch.randperm(len(epoch), generator=generator)
            yield from epoch[order].tolist()
