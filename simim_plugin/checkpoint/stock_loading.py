"""Replace MMEngine's loading of weights for models with our backbones.

``mmpretrain.get_model(NAME, pretrained=FILE)`` and the inferencers load so.
MMEngine's functions unpickle the file and load the tensors that fit. Ours
read the file by an allow-list and refuse a partial match. The replacement
holds for the whole process, but other models still use MMEngine's functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import mmengine.runner
from mmengine.infer import infer
from mmpretrain.apis import base

from .loading import load_weights
from .reading import read_checkpoint


def replace_load_checkpoint() -> None:
    """Replace the function in the modules from which it is called."""
    for module in (mmengine.runner, base):
        module.load_checkpoint = _guarded(module.load_checkpoint)
    inferencer = infer.BaseInferencer
    inferencer._init_model = _guarded_inferencer(inferencer._init_model)


def _guarded(stock: Callable[..., dict]) -> Callable[..., dict]:
    @wraps(stock)
    def load_checkpoint(
        model: Any, filename: str, *args: Any, **kwargs: Any
    ) -> dict:
        backbone = getattr(model, 'backbone', None)
        if not type(backbone).__module__.startswith('simim_plugin.'):
            return stock(model, filename, *args, **kwargs)
        content = read_checkpoint(filename)
        load_weights(model, filename, content)
        return content

    return load_checkpoint


def _guarded_inferencer(stock: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(stock)
    def init_model(
        self: Any, cfg: Any, weights: str | None, device: str = 'cpu'
    ) -> Any:
        kind = ((cfg.get('model') or {}).get('backbone') or {}).get('type')
        name = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
        if weights is None or not name.startswith('SiameseIM'):
            return stock(self, cfg, weights, device)
        content = read_checkpoint(weights)
        load = infer._load_checkpoint
        infer._load_checkpoint = lambda *args, **kwargs: content
        try:
            model = stock(self, cfg, weights, device)
        finally:
            infer._load_checkpoint = load
        load_weights(model, weights, content)
        return model

    return init_model
