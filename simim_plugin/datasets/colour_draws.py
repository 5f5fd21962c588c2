"""Draw the colours of a view without applying them.

The data preprocessor applies them on its device, to whole batches
(:mod:`simim_plugin.models.colours`). The random numbers are drawn by the
transforms of the CPU path, in their order, so both paths have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmpretrain.datasets.transforms.auto_augment import Solarize
from mmpretrain.registry import TRANSFORMS

from ..errors import SimimError
from ..settings.parts import found as registered
from ..settings.signatures import parameter_of
from .photometric import FastColorJitter, FastGaussianBlur, FastGrayscale

ORDER = slice(0, 4)
"""Order of brightness, contrast, saturation and hue, numbered 0 to 3; -1 for
none."""
FACTORS = slice(4, 8)
"""Factors of the four, in this order."""
GREY, RADIUS, THRESHOLD = 8, 9, 10
"""1 for grey; radius of the blur in pixels, 0 for none; level from which on
solarising inverts, 256 for none."""
NO_COLOURS = np.array([*[-1.0] * 4, 1, 1, 1, 0, 0, 0, 256], np.float32)
_STAGES = (FastColorJitter, FastGrayscale, FastGaussianBlur, Solarize)


class ColourDraws:
    """Draw the colours of a view in place of its colour transforms.

    Args:
        transforms (Compose): any of jitter, grey, blur and solarising, in
            this order and each at most once.

    Raises:
        SimimError: for other transforms.
    """

    def __init__(self, transforms: Compose) -> None:
        self.transforms = [*transforms.transforms]
        stages = [self._stage(transform) for transform in self.transforms]
        if stages != sorted({*stages}):
            raise SimimError(
                'colours=True of PairDataPreprocessor takes the colour '
                f'transforms in the order {_NAMES}, each at most once; '
                'remove it, or order the transforms of PairedViews so.'
            )

    @staticmethod
    def _stage(transform: Any) -> int:
        for number, kind in enumerate(_STAGES):
            if type(transform) is kind:
                return number
        raise SimimError(
            'colours=True of PairDataPreprocessor cannot apply '
            f'{type(transform).__name__}; remove it, or use {_NAMES} only.'
        )

    def __call__(self, results: dict) -> dict:
        """Add ``colours``, the draws (11,); the image stays as it is."""
        colours = NO_COLOURS.copy()
        for transform in self.transforms:
            drawn = transform.draw() if hasattr(transform, 'draw') else None
            match transform:
                case FastColorJitter() if drawn is not None:
                    order, factors = drawn
                    for place, which in enumerate(order):
                        if factors[which] is not None:
                            colours[ORDER][place] = which
                            colours[FACTORS][which] = factors[which]
                case FastGrayscale():
                    colours[GREY] = drawn
                case FastGaussianBlur():
                    colours[RADIUS] = drawn or 0
                case Solarize() if not transform.random_disable():
                    threshold = transform.thr
                    if threshold is None:
                        threshold = transform.random_magnitude()
                    colours[THRESHOLD] = threshold
        return dict(results, colours=colours)


_NAMES = ', '.join(kind.__name__ for kind in _STAGES)


def defer_colours(dataset: Any) -> Any:
    """Set ``defer=True`` on every transform that has this argument.

    Args:
        dataset (Any): dictionaries and lists.

    Raises:
        SimimError: if no transform has it.
    """
    found = [0]
    changed = _deferred(dataset, found)
    if not found[0]:
        raise SimimError(
            'colours=True of PairDataPreprocessor needs a pipeline with '
            'PairedViews, or with another transform that has the argument '
            '`defer`; remove it from model.data_preprocessor.'
        )
    return changed


def _deferred(settings: Any, found: list[int]) -> Any:
    if isinstance(settings, list | tuple):
        return [_deferred(part, found) for part in settings]
    if not isinstance(settings, Mapping):
        return settings
    changed = {key: _deferred(part, found) for key, part in settings.items()}
    kind = changed.get('type')
    if isinstance(kind, str):
        kind = registered(TRANSFORMS, kind)
    if kind is None:
        return changed
    if parameter_of(kind, 'defer'):
        found[0] += 1
        changed['defer'] = True
    elif parameter_of(kind, 'algorithm_keys'):
        keys = [*changed.get('algorithm_keys', ()), 'colours']
        changed['algorithm_keys'] = keys
    return changed
