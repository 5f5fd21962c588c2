"""Compile parts of a model, one graph each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import SimimError

PARTS = (
    *('backbone', 'projector', 'neck', 'head'),
    *('target.backbone', 'target.projector', 'target.neck'),
)
"""The parts of SiameseIM and its rivals, each of which is one graph."""


def compile_parts(
    model: nn.Module, modules: Sequence[str] | bool = True, **options: Any
) -> list[str]:
    """Let ``torch.compile`` compile parts of a model, in place.

    What stays outside of the parts breaks no graph: data samples, hooks,
    figures for the log. Names and weights do not change, and hooks of the
    parts still run. A part that has ``loss`` is compiled there, as a head is.

    Args:
        model (nn.Module): without a wrapper for several processes.
        modules (Sequence[str] | bool): dotted names, or True for those of
            ``PARTS`` that the model has. Defaults to True.
        **options: see :func:`torch.compile`.

    Returns:
        list[str]: the names.

    Raises:
        SimimError: if the model has no such part, or a list of parts there.
    """
    found = dict(model.named_modules())
    if modules is True:
        names = [name for name in PARTS if name in found]
    else:
        names = list(modules or ())
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        raise SimimError(
            f'compile.modules names {", ".join(unknown) or "no part"}, which '
            f'{type(model).__name__} does not have; set it to True or to some '
            f'of {", ".join(name for name, _ in model.named_children())}.'
        )
    lists = [name for name in names if not _runs(found[name])]
    if lists:
        raise SimimError(
            f'compile.modules names {", ".join(lists)}, which holds parts and '
            'has no forward pass to compile; name its parts, such as '
            f'{lists[0]}.{next(iter(found[lists[0]]._modules), "0")}.'
        )
    for name in names:
        part: Any = found[name]
        # The method, not the module: torch.compile of a module ignores the
        # hooks that it gets later, such as those of CollapseMonitor.
        method = 'loss' if hasattr(part, 'loss') else 'forward'
        compiled = torch.compile(getattr(part, method), **options)
        setattr(part, method, compiled)
    return names


def _runs(part: nn.Module) -> bool:
    """Return whether a part has a forward pass or a loss of its own."""
    return hasattr(part, 'loss') or type(part).forward is not nn.Module.forward
