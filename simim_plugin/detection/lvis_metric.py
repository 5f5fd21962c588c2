"""MMDetection's LVIS evaluation under NumPy 2."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmdet.evaluation import LVISMetric
from mmdet.registry import METRICS

from ..environment import require
from ..errors import SimimError
from .ground_truth import check_images, number_annotations, without_mark


@METRICS.register_module()
class NumPy2LVISMetric(LVISMetric):
    """MMDetection's ``LVISMetric``: AP, and AP rare, common and frequent.

    A value of -1 means that the annotations have no such object. Images that
    the test leaves out, as by ``indices``, do not count. Arguments are those
    of :class:`mmdet.evaluation.LVISMetric`.

    Raises:
        MissingDependency: if the LVIS API is not installed.
        SimimError: without ``ann_file``.
    """

    cat_ids: list[int] | None
    _lvis_api: Any

    def __init__(
        self, ann_file: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        require('LVIS evaluation')
        if ann_file is None:
            raise SimimError(
                'NumPy2LVISMetric has no ann_file, and images alone do not '
                'state their negative categories; set ann_file of the '
                'evaluator to that of the data set.'
            )
        self.ann_file = ann_file
        with without_mark(ann_file) as file:
            super().__init__(file, *args, **kwargs)
        _complete(self._lvis_api.dataset, ann_file)
        self._lvis_api._create_index()
        self.cat_ids = sorted(self._lvis_api.get_cat_ids())

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch.

        Raises:
            SimimError: if the annotations are not those of its images.
        """
        check_images(data_samples, self._lvis_api.imgs, self.ann_file)
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the images of the test with the LVIS API."""
        self.img_ids = [found['img_id'] for _, found in results]
        whole = self._lvis_api
        self._lvis_api = _part(whole, {*self.img_ids})
        try:
            with float_of_numpy():
                return super().compute_metrics(results)
        finally:
            self._lvis_api = whole


def _part(api: Any, images: set) -> Any:
    """Return the LVIS API of some images, by their ids."""
    if images >= api.imgs.keys():
        return api
    part, dataset = copy.copy(api), api.dataset
    part.dataset = dict(
        dataset,
        images=[one for one in dataset['images'] if one['id'] in images],
        annotations=[
            one for one in dataset['annotations'] if one['image_id'] in images
        ],
    )
    part._create_index()
    return part


def _complete(dataset: dict[str, Any], file: str | None) -> None:
    """Add what the LVIS API needs and files of other tools lack.

    Without lists of negative categories each image is one for all: the file
    has all objects of all categories, as COCO's.
    """
    number_annotations(dataset)
    images = dataset['images']
    stated = sum('neg_category_ids' in image for image in images)
    if 0 < stated < len(images):
        raise SimimError(
            f'The annotation file {file} has {len(images) - stated} of '
            f'{len(images)} images without neg_category_ids, and detections '
            'of other categories would not count there; add it to them, or '
            'remove it from all images if each has all of its objects.'
        )
    everything = [category['id'] for category in dataset['categories']]
    for image in images:
        image.setdefault('neg_category_ids', everything)
        image.setdefault('not_exhaustive_category_ids', [])
    for category in dataset['categories']:
        category.setdefault('frequency', 'f')


@contextmanager
def float_of_numpy() -> Iterator[None]:
    """Supply ``np.float``, which the LVIS API uses and NumPy 1.24 removed."""
    if 'float' in vars(np):
        yield
        return
    setattr(np, 'float', float)  # noqa: B010
    try:
        yield
    finally:
        delattr(np, 'float')
