"""One number for the size of the images: the setting ``img_size``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import SimimError
from .channels import backbone_of

_MASKS = ('BlockwiseMask', 'RandomMask')
_SIZES = {
    'PairedViews': 'size',
    'SameView': 'size',
    'EvaluationCrop': 'size',
    'torchvision/Resize': 'size',
    'torchvision/CenterCrop': 'size',
    'torchvision/RandomCrop': 'size',
    'torchvision/RandomResizedCrop': 'size',
    'SingleDrawCrop': 'scale',
    'AnyChannelCrop': 'scale',
    'RandomResizedCrop': 'scale',
    'ResizeEdge': 'scale',
    'Resize': 'scale',
    'RandomResize': 'scale',
    'RandomCrop': 'crop_size',
    'CenterCrop': 'crop_size',
    'Pad': 'size',
    'BatchFixedSizePad': 'size',
}
"""Transforms and their settings in pixels of the encoder's images."""

_OF_MODEL = (
    'backbone.img_size',
    'backbone.module.img_size',
    'data_preprocessor.size',
    'data_preprocessor.test_cfg.size',
    'data_preprocessor.pad_size_divisor',
    'test_cfg.crop_size',
    'test_cfg.stride',
)


def apply_img_size(config: Any) -> None:
    """Give a config images of the size ``img_size``, pixels.

    Every size in pixels changes by one factor: those of the encoder, the
    transforms, the padding and the sliding windows. In a pretraining, the
    grids of the decoder and of the masks follow, and each mask keeps its
    share of the patches; they follow another ``patch_size`` as well. Nothing
    changes if the encoder has this size already, or if the config has no
    ``img_size``.

    Args:
        config (Config): is changed.

    Raises:
        SimimError: if ``img_size`` is no whole number of patches, or cannot
            reach every place of the size.
    """
    size, model = config.get('img_size'), config.get('model')
    if size is None or not isinstance(model, Mapping):
        return
    backbone: Any = backbone_of(model)
    before, patch = backbone.get('img_size'), backbone.get('patch_size', 16)
    if isinstance(before, (list, tuple)) and len({*before}) == 1:
        before = before[0]
    if not isinstance(before, int) or not isinstance(patch, int):
        raise SimimError(
            f'img_size={size} sets square images and patches, and '
            f'model.backbone has img_size={before}, patch_size={patch}; leave '
            'img_size out, and set the sizes one by one.'
        )
    if not isinstance(size, int) or size < patch or size % patch:
        raise SimimError(
            f'img_size is {size!r} and a patch has {patch} pixels; set a '
            'multiple of it.'
        )
    _check_last_sizes(config, before, size)
    _set_grids(config, size // patch)
    if size == before:
        return
    for path in _OF_MODEL:
        *names, last = path.split('.')
        place: Any = model
        for name in names:
            place = place.get(name) or {}
        if place.get(last) is not None:
            place[last] = _scaled(place[last], size, before)
    for part in _transforms(config):
        kind = _kind(part)
        where = _SIZES.get(kind)
        if where in part:
            part[where] = _scaled(part[where], size, before)
        if kind == 'EvaluationCrop' and part.get('edge') is not None:
            part['edge'] = _scaled(part['edge'], size, before)


def _kind(part: Mapping) -> str:
    """Return the name of a type, which may be the class itself."""
    kind = part.get('type')
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def _scaled(value: Any, size: int, before: int) -> Any:
    """Return a size, or several, changed by the factor ``size / before``."""
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled(one, size, before) for one in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return max(1, round(value * size / before))


def _check_last_sizes(config: Any, before: int, size: int) -> None:
    """Refuse crops of another size than the encoder's images."""
    for part in _transforms(config):
        kind = _kind(part)
        if kind in ('MultiCropViews', 'SmallTargetViews'):
            raise SimimError(
                f'img_size={size} sets one size, and {kind} has its own for '
                'each view; leave img_size out, and set those sizes, '
                'model.backbone.img_size and the grids.'
            )
        found = part.get(_SIZES.get(kind, ''))
        if isinstance(found, (list, tuple)) and len({*found}) == 1:
            found = found[0]
        sets = 'Crop' in kind or kind in ('PairedViews', 'SameView')
        if sets and isinstance(found, int) and found != before:
            raise SimimError(
                f'img_size={size} changes every size from that of '
                f'model.backbone, {before}, and {kind} has {found}; leave '
                'img_size out, or set no other size.'
            )


def _set_grids(config: Any, side: int) -> None:
    """Give the decoder and the masks of a pretraining another grid.

    Raises:
        SimimError: if they have more than one grid.
    """
    neck: Any = config['model'].get('neck') or {}
    if _kind(neck) == 'MAEPretrainDecoder':
        neck['num_patches'] = side**2
    masks = [part for part in _transforms(config) if _kind(part) in _MASKS]
    parts = [*[neck] * ('grid' in neck), *masks]
    if not parts:
        return
    given = [part.get('grid') or () for part in parts]
    grids = [(n, n) if isinstance(n, int) else tuple(n) for n in given]
    square = len({*grids}) == len({*grids[0]}) == 1
    if not (masks and square):
        raise SimimError(
            'img_size sets one square grid of model.neck and the masks, which '
            f'have {", ".join(map(str, given))}; leave img_size out, or set '
            'the same grid in all.'
        )
    old = grids[0][0]
    if old == side:
        return
    for part in parts:
        part['grid'] = (side, side)
        if 'num_masked' in part:
            part['num_masked'] = _share(part['num_masked'], old**2, side**2)
        if 'min_block' in part:
            part['min_block'] = math.ceil(part['min_block'] * side**2 / old**2)


def _share(count: int, of: int, now: int) -> int:
    """Return the same share of another number of patches.

    It is the share in steps of 5 % that gives the count, if there is one.
    """
    steps = (step / 20 for step in range(1, 20))
    exact = count / of
    share = next((s for s in steps if round(s * of) == count), exact)
    return min(max(round(share * now), 1), now - 1)


def _transforms(config: Any) -> Iterator[Any]:
    """Yield each transform of all pipelines once.

    A list that two data sets share is one list only until a config is
    copied, so that its identity counts.
    """
    seen: set[int] = set()
    loaders = [config.get(f'{n}_dataloader') for n in ('train', 'val', 'test')]
    test: Any = config.get('test_cfg') or {}
    model: Any = config.get('model') or {}
    others = [
        test.get('train_dataloader'),
        config.get('tta_pipeline'),
        (model.get('data_preprocessor') or {}).get('batch_augments'),
    ]
    for part in _parts([*loaders, *others]):
        if id(part) not in seen:
            seen.add(id(part))
            yield part


def _parts(settings: Any) -> Iterator[Any]:
    """Yield every dictionary with a type, at any depth."""
    if isinstance(settings, dict):
        if 'type' in settings:
            yield settings
        settings = list(settings.values())
    if isinstance(settings, (list, tuple)):
        for value in settings:
            yield from _parts(value)
