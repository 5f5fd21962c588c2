"""Run mmcv's functions on our operators, even if compiled ones exist."""

from __future__ import annotations

import sys

import pytest

from simim_plugin import operators
from simim_plugin.operators.placing import Operators


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> Operators:
    """The stand-in that all of ``mmcv.ops`` calls."""
    operators.place()
    import mmcv.ops  # noqa: F401

    stand_in = Operators()
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', stand_in)
    return stand_in
