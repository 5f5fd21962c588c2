"""Correct faults of the libraries' functions for inference."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import mmcv
import numpy as np
from mmengine import fileio, runner
from mmengine.infer import BaseInferencer
from mmengine.registry import FUNCTIONS

from .pictures import array_to_rgb, decode_to_draw
from .pictures.levels import measured_window


def accept_collate_settings() -> None:
    """Let inferencers read ``collate_fn=dict(type=...)`` as the Runner does.

    MMEngine's inferencers look the dictionary up as if it were a name.
    """
    stock = BaseInferencer._init_collate
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def init_collate(self: BaseInferencer, cfg: Any) -> Any:
        given = (cfg.get('test_dataloader') or {}).get('collate_fn')
        if not isinstance(given, dict):
            return stock(self, cfg)
        options = dict(given)
        return partial(FUNCTIONS.get(options.pop('type')), **options)

    BaseInferencer._init_collate = init_collate


def draw_as_read(kind: type) -> None:
    """Let an inferencer draw on images as its model sees them.

    The inferencers of MMDetection and MMSegmentation decode files by MMCV,
    which knows fewer formats and turns fewer of them upright, and take arrays
    for RGB, which exchanges red and blue.

    Args:
        kind (type): ``DetInferencer`` or ``MMSegInferencer``.
    """
    stock = kind.visualize  # type: ignore[attr-defined]
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def visualize(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_ours(self.model):
            return stock(self, inputs, *args, **kwargs)
        inputs = [
            as_drawn(image) if isinstance(image, np.ndarray) else image
            for image in inputs
        ]
        with our_reader():
            return stock(self, inputs, *args, **kwargs)

    kind.visualize = visualize  # type: ignore[attr-defined]


def is_ours(model: Any) -> bool:
    """Return whether the backbone of a model is one of this package."""
    backbone = getattr(model, 'backbone', None)
    return type(backbone).__module__.startswith('simim_plugin.')


def as_drawn(image: np.ndarray) -> np.ndarray:
    """Return an array that is given to an inferencer as (H, W, 3) RGB.

    Of more than four channels the first three are shown.
    """
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        bands = image[..., :3] if image.shape[2] > 4 else image[..., :1]
        image = bands[..., ::-1]
    return array_to_rgb(image, measured_window([image]))


@contextmanager
def our_reader() -> Iterator[None]:
    """Let MMCV decode the bytes of image files by our rules, to draw them."""
    stock, stock_read = mmcv.imfrombytes, mmcv.imread

    def from_bytes(
        content: bytes, *_: Any, channel_order: str = 'bgr', **__: Any
    ) -> np.ndarray:
        image = decode_to_draw(content)
        return image if channel_order == 'rgb' else image[..., ::-1]

    def read(file: Any, *_: Any, **options: Any) -> np.ndarray:
        return from_bytes(fileio.get(file), **options)

    mmcv.imfrombytes, mmcv.imread = from_bytes, read
    try:
        yield
    finally:
        mmcv.imfrombytes, mmcv.imread = stock, stock_read


def correct_detection() -> None:
    """Correct MMDetection's functions.

    ``inference_detector`` reads files after an array: MMDetection sets the
    detector's own config to read arrays. ``init_detector`` gets our loader
    of weights, even if it was imported first.
    """
    from mmdet.apis import DetInferencer, inference

    draw_as_read(DetInferencer)
    stock = inference.get_test_pipeline_cfg
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def pipeline(cfg: Any) -> Any:
        return copy.deepcopy(stock(cfg))

    inference.get_test_pipeline_cfg = pipeline
    inference.load_checkpoint = runner.load_checkpoint


def correct_segmentation() -> None:
    """Correct MMSegmentation's functions.

    ``inference_model`` reads files after an array: MMSegmentation sets the
    segmentor's own config to read arrays. ``init_model`` gets our loader of
    weights, even if it was imported first. ``show_result_pyplot`` draws on
    files as they are read.
    """
    from mmseg import apis
    from mmseg.apis import MMSegInferencer, inference

    draw_as_read(MMSegInferencer)
    stock = inference._preprare_data
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def prepare(imgs: Any, model: Any) -> Any:
        return stock(imgs, SimpleNamespace(cfg=copy.deepcopy(model.cfg)))

    inference._preprare_data = prepare
    inference.load_checkpoint = runner.load_checkpoint
    show = inference.show_result_pyplot

    @wraps(show)
    def show_result_pyplot(model: Any, *args: Any, **kwargs: Any) -> Any:
        with our_reader() if is_ours(model) else nullcontext():
            return show(model, *args, **kwargs)

    inference.show_result_pyplot = show_result_pyplot
    apis.show_result_pyplot = show_result_pyplot
