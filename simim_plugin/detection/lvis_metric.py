"""MMDetection's LVIS evaluation under NumPy 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmdet.evaluation import LVISMetric
from mmdet.registry import METRICS

from ..environment import require
from .annotations import without_mark


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

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the collected results with the LVIS API."""
        if self._lvis_api is not None and self.cat_ids is None:
            self.cat_ids = sorted(self._lvis_api.get_cat_ids())
            for image in self._lvis_api.dataset['images']:
                image.setdefault('neg_category_ids', [])
                image.setdefault('not_exhaustive_category_ids', [])
            for category in self._lvis_api.dataset['categories']:
                category.setdefault('frequency', 'f')
        with float_of_numpy():
            return super().compute_metrics(results)


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
