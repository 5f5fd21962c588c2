"""Replace MMEngine's ``load_checkpoint`` for models with our backbones.

``mmpretrain.get_model(NAME, pretrained=FILE)`` and the inferencers call it.
MMEngine's function unpickles the file and loads the tensors that fit. Ours
reads the file by an allow-list and refuses a partial match. The replacement
holds for the whole process, but other models still use MMEngine's function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import mmengine.runner
from mmpretrain.apis import base

from .loading import load_weights
from .reading import read_checkpoint


def replace_load_checkpoint() -> None:
    """Replace the function in the modules from which it is called."""
    for module in (mmengine.runner, base):
        module.load_checkpoint = _guarded(module.load_checkpoint)


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
