"""COCO and LVIS data sets that check their files before a run starts."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from math import sqrt
from typing import Any, ClassVar

import torch
from mmdet.datasets import CocoDataset, LVISV1Dataset
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log

from ..datasets.annotated import prefer_upright
from ..datasets.image_set import ImageSet
from ..environment import require
from ..errors import SimimError
from ..text import clean, some
from .annotations import (
    CROWD,
    SkippedObjects,
    category_ids,
    check_masks,
    ordered_category_ids,
    read_annotations,
    reason_left_out,
)
from .ground_truth import COCO_ADDRESS
from .loading import LoadInstances


class _Checked(ImageSet):
    """A COCO data set that refuses missing or unfit files in one sentence.

    Labels follow the names of the classes, whatever the order of the file.
    """

    ann_file: str
    metainfo: dict

    find_ids = staticmethod(category_ids)

    def __init__(
        self, *args: Any, upright: bool | None = None, **kwargs: Any
    ) -> None:
        self.upright = upright
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images; called by the base class.

        Raises:
            SimimError: if the annotation file or images are missing, the
                classes are not those of the file, there is no object, or
                masks are missing or unfit. Test files without an
                ``annotations`` key are accepted.
        """
        content = read_annotations(self.ann_file)
        self.cat_ids = self.find_ids(
            self.ann_file, content['categories'], self.metainfo['classes']
        )
        self.cat2label = {k: label for label, k in enumerate(self.cat_ids)}
        self.cat_img_map: dict[int, list] = defaultdict(list)
        objects: dict[Any, list[dict]] = defaultdict(list)
        for ann in content.get('annotations', ()):
            objects[ann['image_id']].append(ann)
            self.cat_img_map[ann['category_id']].append(ann['image_id'])
        skipped = SkippedObjects()
        listed = [
            self._listed(image, objects.pop(image['id'], []), skipped)
            for image in content['images']
        ]
        for place, unknown in objects.items():
            for _ in unknown:
                skipped.add('of images that are not listed', f'id {place}')
        self._check_masks(listed, skipped)
        labelled = 'annotations' in content or not self.test_mode
        self._check_objects(listed, skipped, labelled)
        self._check_images(listed)
        upright = prefer_upright(listed, self.ann_file, self.upright)
        for item in listed:
            item['upright'] = upright
        return listed

    def _listed(
        self, image: dict, anns: list[dict], skipped: SkippedObjects
    ) -> dict:
        image['img_id'] = image['id']
        image['file_name'] = self.file_name(image)
        item: dict = self.parse_data_info(  # type: ignore[attr-defined]
            {'raw_img_info': image, 'raw_ann_info': anns}
        )
        kept = sum(not i['ignore_flag'] for i in item['instances'])
        if kept < len(anns):
            for ann in anns:
                reason = reason_left_out(ann, image, self.cat2label)
                if reason or ann.get('iscrowd'):
                    skipped.add(reason or CROWD, image['file_name'])
        return item

    def file_name(self, image: dict) -> str:
        """Return the path of an image below the prefix of the data set.

        Raises:
            SimimError: if the image has the address of COCO's image alone.
        """
        if 'file_name' not in image:
            raise SimimError(
                f'In the annotation file {self.ann_file} the image with the '
                f'id {image["id"]} has no file_name; add it, or use '
                "type='CheckedLVISDataset' for a file of LVIS."
            )
        return image['file_name']

    def _check_masks(
        self, listed: list[dict], skipped: SkippedObjects
    ) -> None:
        loaders = [
            step
            for step in self.pipeline.transforms
            if getattr(step, 'with_mask', False)
        ]
        if not loaders:
            return
        runs = check_masks(
            self.ann_file, listed, skipped, evaluated=self.test_mode
        )
        if runs and not all(
            isinstance(step, LoadInstances) or step.poly2mask
            for step in loaders
        ):
            raise SimimError(
                f'The annotation file {self.ann_file} has {runs} run-length '
                "masks, which LoadAnnotations drops; use type='LoadInstances' "
                'in its place in the pipeline.'
            )

    def _check_objects(
        self, listed: list[dict], skipped: SkippedObjects, labelled: bool
    ) -> None:
        notes = f' Left out: {skipped}.' if skipped.counts else ''
        kept = sum(len(item['instances']) for item in listed)
        if not kept and (labelled or not listed):
            raise SimimError(
                f'The annotation file {self.ann_file} has {len(listed)} '
                'images and no object of the classes in them; check that it '
                f'is the file of this data set.{notes}'
            )
        beyond = [
            os.path.basename(item['img_path'])
            for item in listed
            for instance in item['instances']
            if instance['bbox'][2] > item['width'] + 1
            or instance['bbox'][3] > item['height'] + 1
        ]
        if len(beyond) > kept / 100:
            notes += (
                f' Of {kept} boxes {len(beyond)} reach beyond their image '
                f"({some(dict.fromkeys(beyond))}); COCO's boxes are (left, "
                'top, width, height).'
            )
        crowded = sum(
            bool(item['instances'])
            and all(i['ignore_flag'] for i in item['instances'])
            for item in listed
        )
        if crowded:
            notes += f' Images with crowd regions only: {crowded}.'
        if notes:
            print_log(
                clean(f'{self.ann_file} has {len(listed)} images.{notes}'),
                'current',
                logging.WARNING,
            )

    def _check_images(self, listed: list[dict]) -> None:
        names = cache(_names)
        missing = []
        for item in listed:
            folder, name = os.path.split(item['img_path'])
            found = names(folder)
            # macOS writes accents as characters of their own.
            there = found.get(name) or found.get(
                unicodedata.normalize('NFC', name)
            )
            if there is None:
                missing.append(item['img_path'])
            elif there != name:
                item['img_path'] = os.path.join(folder, there)
        if missing:
            raise SimimError(
                f'Of the {len(listed)} images in {self.ann_file} '
                f'{len(missing)} are missing ({some(missing)}); set '
                'data_prefix of the data set, or get them.'
            )


def _names(folder: str) -> dict[str, str]:
    """Return the regular files in a folder, by both forms of their names."""
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    composed = {unicodedata.normalize('NFC', name): name for name in names}
    return composed | {name: name for name in names}


@DATASETS.register_module()
class CheckedCocoDataset(_Checked, CocoDataset):
    """MMDetection's ``CocoDataset``, with files checked at the start.

    Categories are found by the names of the classes, in any order.

    Args:
        upright (bool, optional): whether annotations that fit an image as
            stored and turned by its EXIF orientation are of the turned one.
            Defaults to None: as most others of the set, else as stored.
        skip_broken (float): as in :class:`ImageSet`. Defaults to 0.
        **kwargs: see :class:`mmdet.datasets.CocoDataset`.
    """

    METAINFO: ClassVar[dict] = {**CocoDataset.METAINFO, 'labels_by_name': True}


@DATASETS.register_module()
class CheckedLVISDataset(_Checked, LVISV1Dataset):
    """MMDetection's ``LVISV1Dataset``, with files checked at the start.

    For categories other than LVIS's, list their names in ``metainfo`` in the
    order of their ids.
    """

    METAINFO: ClassVar[dict] = {
        **LVISV1Dataset.METAINFO,
        'labels_by_name': True,
    }

    find_ids = staticmethod(ordered_category_ids)

    def load_data_list(self) -> list[dict]:
        """List the images; called by the base class.

        Raises:
            MissingDependency: if the LVIS API is not installed.
            SimimError: as in :class:`CheckedCocoDataset`.
        """
        require('LVIS evaluation')
        return super().load_data_list()

    def file_name(self, image: dict) -> str:
        """Return LVIS's path: the split and the name of COCO's image."""
        if 'coco_url' not in image:
            return super().file_name(image)
        return image['coco_url'].removeprefix(COCO_ADDRESS)


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
