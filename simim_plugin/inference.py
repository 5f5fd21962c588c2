"""Correct four faults of the libraries' functions for inference."""

from __future__ import annotations

import copy
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import numpy as np
from mmengine import runner
from mmengine.infer import BaseInferencer
from mmengine.registry import FUNCTIONS


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


def draw_arrays_in_their_colours(kind: type) -> None:
    """Let an inferencer draw on arrays as its model sees them, in BGR.

    The inferencers of MMDetection and MMSegmentation take them for RGB, and
    exchange red and blue.

    Args:
        kind (type): ``DetInferencer`` or ``MMSegInferencer``.
    """
    stock = kind.visualize  # type: ignore[attr-defined]
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def visualize(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        backbone = getattr(self.model, 'backbone', None)
        if type(backbone).__module__.startswith('simim_plugin.'):
            inputs = [
                image[..., ::-1]
                if isinstance(image, np.ndarray) and image.ndim == 3
                else image
                for image in inputs
            ]
        return stock(self, inputs, *args, **kwargs)

    kind.visualize = visualize  # type: ignore[attr-defined]


def correct_detection() -> None:
    """Correct MMDetection's functions.

    ``inference_detector`` reads files after an array: MMDetection sets the
    detector's own config to read arrays. ``init_detector`` gets our loader
    of weights, even if it was imported first.
    """
    from mmdet.apis import DetInferencer, inference

    draw_arrays_in_their_colours(DetInferencer)
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
    weights, even if it was imported first.
    """
    from mmseg.apis import MMSegInferencer, inference

    draw_arrays_in_their_colours(MMSegInferencer)
    stock = inference._preprare_data
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def prepare(imgs: Any, model: Any) -> Any:
        return stock(imgs, SimpleNamespace(cfg=copy.deepcopy(model.cfg)))

    inference._preprare_data = prepare
    inference.load_checkpoint = runner.load_checkpoint
