"""Let MMPretrain's inferencers read files as our data sets do.

They read every file by ``mmcv.imread`` before the pipeline starts, whose
formats, levels and orientation differ. The replacement holds for the whole
process, but only pipelines that begin with ``LoadRGBImage`` get the file.
That of ``LocalCIFAR10``, which holds no files, begins with it here.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from functools import wraps
from os import PathLike
from typing import Any

import numpy as np
from mmengine import fileio
from mmengine.dataset import default_collate
from mmpretrain import FeatureExtractor, ImageClassificationInferencer
from mmpretrain.apis import image_classification
from mmpretrain.visualization import UniversalVisualizer

from ..inference import as_drawn, drawing, drawn_names, take_folders
from ..pictures import decode_to_draw, naming
from .loading import LoadRGBImage
from .local_cifar10 import steps_of_files


def replace_preprocess() -> None:
    """Replace the method of the inferencers that read images."""
    for kind in (FeatureExtractor, ImageClassificationInferencer):
        kind._init_pipeline = _from_files(kind._init_pipeline)
        kind.preprocess = _by_pipeline(kind.preprocess)
        take_folders(kind, _is_ours)
    stock = ImageClassificationInferencer.visualize
    ImageClassificationInferencer.visualize = _as_read(stock)


def _is_ours(inferencer: Any) -> bool:
    transforms = getattr(inferencer.pipeline, 'transforms', [None])
    return isinstance(transforms[0], LoadRGBImage)


def _from_files(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Let the pipeline of ``LocalCIFAR10`` take files of any size."""

    @wraps(stock)
    def init_pipeline(self: Any, cfg: Any) -> Any:
        dataset = cfg.test_dataloader.dataset
        if str(dataset.get('type')).rpartition('.')[2] == 'LocalCIFAR10':
            cfg = copy.deepcopy(cfg)
            dataset = cfg.test_dataloader.dataset
            dataset.pipeline = [*steps_of_files(), *dataset.pipeline]
        return stock(self, cfg)

    return init_pipeline


def _by_pipeline(stock: Callable[..., Iterator]) -> Callable[..., Iterator]:
    @wraps(stock)
    def preprocess(
        self: Any, inputs: list, batch_size: int = 1, **kwargs: Any
    ) -> Iterator:
        if not _is_ours(self):
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


def _as_read(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Let the drawings show files and arrays as the pipeline reads them."""

    @wraps(stock)
    def visualize(self: Any, inputs: list, *args: Any, **kwargs: Any) -> Any:
        if not _is_ours(self):
            return stock(self, inputs, *args, **kwargs)
        named = [
            as_drawn(image)
            if isinstance(image, np.ndarray)
            else os.fspath(image)
            for image in inputs
        ]
        names = [name and f'{name}.png' for name in drawn_names(self, named)]
        if self.visualizer is None and kwargs.get('show_dir') is not None:
            self.visualizer = UniversalVisualizer()
        kept = image_classification.imread
        image_classification.imread = _read
        try:
            with drawing(self.visualizer, 'visualize_cls', names):
                return stock(self, named, *args, **kwargs)
        finally:
            image_classification.imread = kept

    return visualize


def _read(image: Any) -> Any:
    """Read a file in BGR, as MMCV does; leave an array."""
    if not isinstance(image, str):
        return image
    with naming(image):
        return decode_to_draw(fileio.get(image), name=image)[..., ::-1]
