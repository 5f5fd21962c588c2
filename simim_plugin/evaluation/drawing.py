"""Draw predictions of images whatever their names and classes are."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from mmpretrain.engine import VisualizationHook
from mmpretrain.registry import HOOKS

from ..text import clean

_LONGEST = 200
"""Bytes of a name, to which the hook adds the step and an extension."""


@HOOKS.register_module()
class NamedPicturesHook(VisualizationHook):
    """MMPretrain's ``VisualizationHook`` for names of any characters.

    Names of files become those of pictures and tags of TensorBoard, without
    control characters and cut to 200 bytes. A ``$`` in the name of a class
    stays a ``$``.

    Args:
        **kwargs: see :class:`mmpretrain.engine.VisualizationHook`.
    """

    def __init__(self, **kwargs: Any) -> None:
        mpl.rcParams['text.parse_math'] = False
        super().__init__(**kwargs)

    def _draw_samples(
        self,
        batch_idx: int,
        data_batch: dict,
        data_samples: Sequence[Any],
        step: int = 0,
    ) -> None:
        """Rename the samples, whose metrics are computed, and draw them."""
        for sample in data_samples:
            if 'img_path' in sample:
                name = clean(os.path.basename(sample.img_path)).encode()
                if len(name) > _LONGEST:
                    name = name[:_LONGEST] + b'-%08x' % zlib.crc32(name)
                short = name.decode(errors='ignore')
                sample.set_field(short, 'img_path', field_type='metainfo')
        super()._draw_samples(batch_idx, data_batch, data_samples, step)
