"""Draw predictions of images whatever their names and classes are."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import torch
from mmengine.runner import Runner
from mmpretrain.engine import VisualizationHook
from mmpretrain.registry import HOOKS

from ..pictures.distinct import names_in
from ..text import clean

_LONGEST = 200
"""Bytes of a name, to which the hook adds the step and an extension."""


@HOOKS.register_module()
class NamedPicturesHook(VisualizationHook):
    """MMPretrain's ``VisualizationHook`` for names of any characters.

    Names of files become those of pictures and tags of TensorBoard, without
    control characters and cut to 200 bytes. Where two images of the set have
    the same, it is the path below their folder, with ``-`` between its parts.
    A ``$`` in the name of a class stays a ``$``. Of more than three channels
    the first three are shown, of two the first.

    Args:
        **kwargs: see :class:`mmpretrain.engine.VisualizationHook`.
    """

    def __init__(self, **kwargs: Any) -> None:
        mpl.rcParams['text.parse_math'] = False
        super().__init__(**kwargs)
        self.names: dict[str, str] = {}

    def before_val(self, runner: Runner) -> None:
        """Name the pictures of the validation set."""
        self._name(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Name the pictures of the test set."""
        self._name(runner.test_dataloader.dataset)

    def _name(self, dataset: Any) -> None:
        self.names = {}
        if not self.enable:
            return
        named = names_in(dataset, ending=True)
        flat = {path: _flat(name) for path, name in named.items()}
        uses = Counter(flat.values())
        self.names = {
            path: name if uses[name] == 1 else _marked(name, path)
            for path, name in flat.items()
        }

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
                path = sample.img_path
                name = self.names.get(path) or _flat(os.path.basename(path))
                sample.set_field(name, 'img_path', field_type='metainfo')
        shown = dict(inputs=[_shown(x) for x in data_batch['inputs']])
        super()._draw_samples(batch_idx, shown, data_samples, step)


def _flat(name: str) -> str:
    """Return a name without folders that a file may have."""
    name = clean(name).replace('/', '-')
    if len(name.encode()) <= _LONGEST:
        return name
    return _marked(name.encode()[:_LONGEST].decode(errors='ignore'), name)


def _marked(name: str, path: str) -> str:
    return f'{name}-{zlib.crc32(path.encode(errors="surrogateescape")):08x}'


def _shown(image: torch.Tensor) -> torch.Tensor:
    """Return three channels of an image (N, H, W)."""
    if len(image) < 3:
        return image[:1].expand(3, -1, -1)
    return image[:3]
