"""Let MMPretrain's inferencers read files as our data sets do.

They read every file by ``mmcv.imread`` before the pipeline starts, whose
formats, levels and orientation differ. The replacement holds for the whole
process, but only pipelines that begin with ``LoadRGBImage`` get the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from os import PathLike
from typing import Any

from mmengine.dataset import default_collate
from mmpretrain import FeatureExtractor, ImageClassificationInferencer

from .loading import LoadRGBImage


def replace_preprocess() -> None:
    """Replace the method of the inferencers that read images."""
    for kind in (FeatureExtractor, ImageClassificationInferencer):
        kind.preprocess = _by_pipeline(kind.preprocess)


def _by_pipeline(stock: Callable[..., Iterator]) -> Callable[..., Iterator]:
    @wraps(stock)
    def preprocess(
        self: Any, inputs: list, batch_size: int = 1, **kwargs: Any
    ) -> Iterator:
        transforms = getattr(self.pipeline, 'transforms', [None])
        if not isinstance(transforms[0], LoadRGBImage):
            yield from stock(self, inputs, batch_size=batch_size, **kwargs)
            return
        items = (
            dict(img_path=str(image))
            if isinstance(image, str | PathLike)
            else dict(img=image)
            for image in inputs
        )
        chunks = self._get_chunk_data(map(self.pipeline, items), batch_size)
        yield from map(default_collate, chunks)

    return preprocess
