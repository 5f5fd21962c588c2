"""Correct three faults of the libraries' functions for inference."""

from __future__ import annotations

import copy
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

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
        with FUNCTIONS.switch_scope_and_registry(self.scope) as registry:
            function = registry.get(options.pop('type'))
        return partial(function, **options)

    BaseInferencer._init_collate = init_collate


def keep_detector_config() -> None:
    """Let ``inference_detector`` read files after an array.

    MMDetection sets the detector's own config to read arrays. Its
    ``init_detector`` gets our loader of weights, even if it was imported
    first.
    """
    from mmdet.apis import inference

    stock = inference.get_test_pipeline_cfg
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def pipeline(cfg: Any) -> Any:
        return copy.deepcopy(stock(cfg))

    inference.get_test_pipeline_cfg = pipeline
    inference.load_checkpoint = runner.load_checkpoint


def keep_segmentor_config() -> None:
    """Let ``inference_model`` read files after an array.

    MMSegmentation sets the segmentor's own config to read arrays. Its
    ``init_model`` gets our loader of weights, even if it was imported first.
    """
    from mmseg.apis import inference

    stock = inference._preprare_data
    if hasattr(stock, '__wrapped__'):
        return

    @wraps(stock)
    def prepare(imgs: Any, model: Any) -> Any:
        return stock(imgs, SimpleNamespace(cfg=copy.deepcopy(model.cfg)))

    inference._preprare_data = prepare
    inference.load_checkpoint = runner.load_checkpoint
