"""Read checkpoints safely, load them into models, and convert them.

:func:`load_backbone` fills an encoder, and :func:`load_weights` a model, from
a file of any format in ``names.py``. Both refuse a partial match.
``export.py`` writes other formats.

Importing this package replaces the functions by which MMEngine reads files
from outside: see ``stock_loading.py``.
"""

from ..environment import leave_out_multimodal

leave_out_multimodal()

# ruff: noqa: E402
from .loading import (
    Weights,
    load_backbone,
    load_model,
    load_weights,
    read_weights,
)
from .names import from_official, to_official
from .reading import CheckpointError, read_checkpoint
from .stock_loading import replace_stock_loading

__all__ = [
    'CheckpointError',
    'Weights',
    'from_official',
    'load_backbone',
    'load_model',
    'load_weights',
    'read_checkpoint',
    'read_weights',
    'to_official',
]

replace_stock_loading()
