"""MMDetection's LVIS evaluation under NumPy 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmdet.evaluation import LVISMetric
from mmdet.registry import METRICS

from ..environment import require
from ..errors import SimimError
from .ground_truth import number_annotations, without_mark


@METRICS.register_module()
class NumPy2LVISMetric(LVISMetric):
    """MMDetection's ``LVISMetric``: AP, and AP rare, common and frequent.

    A value of -1 means that the annotations have no such object. Arguments
    are those of :class:`mmdet.evaluation.LVISMetric`.

    Raises:
        MissingDependency: if the LVIS API is not installed.
    """

    cat_ids: list[int] | None

    def __init__(
        self, ann_file: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        require('LVIS evaluation')
        with without_mark(ann_file) as file:
            super().__init__(file, *args, **kwargs)
        if self._lvis_api is not None:
            _complete(self._lvis_api.dataset, ann_file)
            self._lvis_api._create_index()
            self.cat_ids = sorted(self._lvis_api.get_cat_ids())

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the collected results with the LVIS API."""
        with float_of_numpy():
            return super().compute_metrics(results)


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
