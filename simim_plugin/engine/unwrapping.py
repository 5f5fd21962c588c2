"""Reach a model inside mmengine's wrapper, and the parts of it."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import nn

from ..errors import SimimError


def unwrapped(model: nn.Module) -> Any:
    """Return the model itself, given a Runner's model."""
    return model.module if is_model_wrapper(model) else model


def part_for(hook: Hook, model: nn.Module, path: str) -> Any:
    """Return the part of a Runner's model that a hook changes.

    Args:
        hook (Hook): names itself in the sentence.
        model (nn.Module): of the Runner.
        path (str): of the part, with dots, such as ``neck.last_layer``.

    Raises:
        SimimError: if the model does not have the part.
    """
    part = unwrapped(model)
    for name in path.split('.'):
        part = getattr(part, name, None)
    if part is None:
        raise SimimError(
            f'{type(hook).__name__} needs {path} of the model, which '
            f'{type(unwrapped(model)).__name__} does not have; remove the '
            'hook.'
        )
    return part
