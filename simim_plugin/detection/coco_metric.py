"""MMDetection's COCO evaluation for data sets whose labels follow names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from .ground_truth import check_images, number_annotations, without_mark


# MMDetection's class counts labels in the order of the file. The name stays,
# so that every config evaluates the checked data sets rightly.
@METRICS.register_module(name='CocoMetric', force=True)
class NamedCocoMetric(CocoMetric):
    """MMDetection's ``CocoMetric``, with categories found by their names.

    Other data sets than :class:`CheckedCocoDataset` are evaluated as by
    MMDetection. Annotations may have any ids and need no ``iscrowd`` and no
    mask. Images that the test leaves out, as by ``indices``, do not count.
    Arguments are those of :class:`mmdet.evaluation.CocoMetric`.
    """

    def __init__(
        self, ann_file: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        self.ann_file = ann_file
        with (
            without_mark(ann_file) as file,
            redirect_stdout(io.StringIO()),  # the COCO API counts seconds
        ):
            super().__init__(file, *args, **kwargs)
            if self._coco_api is not None:
                number_annotations(self._coco_api.dataset)
                self._coco_api.createIndex()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch.

        Raises:
            SimimError: if the annotations are not those of its images.
        """
        if self._coco_api is not None and self._by_name:
            check_images(data_samples, self._coco_api.imgs, self.ann_file)
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the images of the test."""
        if self._by_name:
            self.img_ids = [found['img_id'] for _, found in results]
        return super().compute_metrics(results)

    @property
    def _by_name(self) -> bool:
        """Whether labels follow names, as in the checked data sets."""
        return bool(self.dataset_meta.get('labels_by_name'))

    def results2json(self, results: list, outfile_prefix: str) -> dict:
        """Write the predictions as the COCO API reads them."""
        if not self._by_name:
            return super().results2json(results, outfile_prefix)
        names = self._coco_api.cats.values()
        ids = {category['name']: category['id'] for category in names}
        self.cat_ids = [ids[name] for name in self.dataset_meta['classes']]
        files = super().results2json(results, outfile_prefix)
        # The COCO API lists the AP of single classes in the order of ids.
        self.cat_ids.sort()
        return files
