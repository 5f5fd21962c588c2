"""Reach the model inside mmengine's wrapper for several processes."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> Any:
    """Return the model itself, given a Runner's model."""
    return model.module if is_model_wrapper(model) else model
