"""Read how images are prepared for an encoder, from the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .limits import CheckpointError

WEIGHT_FILES = ('model.safetensors', 'pytorch_model.bin')
"""Weights in a folder that Hugging Face or timm wrote."""
_DESCRIPTIONS = (
    ('config', 'config.json'),
    ('preprocessor', 'preprocessor_config.json'),
)
_RESAMPLE = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic'}
"""Pillow's numbers."""


def beside(file: str | Path) -> dict[str, Any]:
    """Return the descriptions in the folder of a weight file, by entry.

    Args:
        file (str | Path): only those of ``WEIGHT_FILES`` have any.

    Raises:
        CheckpointError: for a description that is no JSON object.
    """
    file = Path(file)
    if file.name not in WEIGHT_FILES:
        return {}
    return {
        entry: read_json(file.parent / name)
        for entry, name in _DESCRIPTIONS
        if (file.parent / name).is_file()
    }


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: if it is none.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f'{path} is no JSON object ({error}); get the folder again from '
            'its source.'
        ) from error


def preprocessing(content: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return what the files beside an encoder state of its images.

    Args:
        content (Mapping[str, Any]): ``config`` of timm and ``preprocessor``
            of Hugging Face, if they exist.
        file (str): the source, for the error.

    Returns:
        dict[str, Any]: fields of :class:`simim_plugin.checkpoint.families.
        Family`, none if they state nothing.

    Raises:
        CheckpointError: for a mean or std that is none.
    """
    config = content.get('config')
    config = config if isinstance(config, Mapping) else {}
    timm = config.get('pretrained_cfg', config)
    given = content.get('preprocessor')
    stated: dict[str, Any] = {}
    if isinstance(given, Mapping) and 'image_mean' in given:
        mean, std = given['image_mean'], given.get('image_std')
        if given.get('do_normalize') is False:
            mean, std = [0.0] * 3, [1.0] * 3
        resample = given.get('resample', 3)
        if not isinstance(resample, int):
            raise _wrong(resample, file)
        stated['interpolation'] = _RESAMPLE.get(resample)
        stated['crop'] = _crop(given)
    elif isinstance(timm, Mapping) and {'mean', 'std'} <= timm.keys():
        mean, std = timm['mean'], timm['std']
        name = timm.get('interpolation')
        if not isinstance(name, str | None):
            raise _wrong(name, file)
        known = name in _RESAMPLE.values()  # timm has 'random', too
        stated['interpolation'] = name if known else None
        stated['crop'] = timm.get('crop_pct')
        pools = dict(token='cls', avg='mean')
        stated['global_pool'] = pools.get(str(config.get('global_pool')))
    else:
        return {}
    stated |= dict(mean=_levels(mean, file), std=_levels(std, file))
    if min(stated['std']) <= 0 or len(stated['std']) != len(stated['mean']):
        raise _wrong(std, file)
    if stated['crop'] is not None and not _is_number(stated['crop']):
        raise _wrong(stated['crop'], file)
    return {key: value for key, value in stated.items() if value is not None}


def _crop(given: Mapping[str, Any]) -> float | None:
    """Return the side of the centre crop over the short edge."""
    if not given.get('do_center_crop', 'crop_size' in given):
        return 1.0
    sides: list[Any] = [
        side.get('shortest_edge', side.get('height'))
        if isinstance(side, Mapping)
        else side
        for side in (given.get('crop_size'), given.get('size'))
    ]
    return sides[0] / sides[1] if all(map(_is_number, sides)) else None


def _levels(values: Any, file: str) -> tuple[float, ...]:
    """Return shares of the largest level as levels from 0 to 255."""
    valid = isinstance(values, list | tuple) and values
    if not valid or not all(_is_number(x) or x == 0 for x in values):
        raise _wrong(values, file)
    return tuple(round(255 * value, 7) for value in values)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < 1e6


def _wrong(value: Any, file: str) -> CheckpointError:
    return CheckpointError(
        f'The description of images beside {file} holds {value!r:.80}, which '
        'is no mean, std or crop, and no interpolation; correct '
        'preprocessor_config.json or config.json.'
    )
