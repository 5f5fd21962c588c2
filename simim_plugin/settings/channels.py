"""Fit the pipelines of a config to images of another number of channels.

``in_channels`` of the backbone chooses the number. Transforms that know three
channels alone are replaced, or left out and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from ..errors import SimimError

_LOADERS = ('LoadRGBImage', 'LoadImageFromFile')
_COLOURS = (
    *('FastGrayscale', 'RandomGrayscale', 'ColorJitter', 'Lighting'),
    *('RandAugment', 'AutoAugment', 'RandomErasing', 'AutoContrast'),
    *('Equalize', 'ColorTransform', 'Contrast', 'PhotoMetricDistortion'),
    *('YOLOXHSVRandomAug', 'GaussianBlur'),
)
"""Transforms of three channels, of which others become wrong or an error."""

_PREPROCESSORS = {
    'DetDataPreprocessor': 'AnyChannelDetPreprocessor',
    'SegDataPreProcessor': 'AnyChannelSegPreprocessor',
}
_LISTS = ('pipeline', 'transforms', 'online', 'target', 'colour', 'colours')


def backbone_of(model: Any) -> Mapping:
    """Return the settings of the backbone, also of one with adapters."""
    backbone = model.get('backbone') if isinstance(model, Mapping) else None
    if isinstance(backbone, Mapping) and 'LoRAModel' in str(
        backbone.get('type')
    ):
        backbone = backbone.get('module')
    return backbone if isinstance(backbone, Mapping) else {}


def channels_of(settings: Mapping) -> int:
    """Return ``in_channels`` of the backbone, 3 if it is not set."""
    backbone = backbone_of(settings.get('model'))
    channels = backbone.get('in_channels', 3)
    return channels if isinstance(channels, int) else 3


def fit_channels(settings: Mapping) -> list[str]:
    """Change pipelines and preprocessor for other channels than three.

    Args:
        settings (Mapping): the arguments of a Runner, which are changed.

    Returns:
        list[str]: the transforms that are left out, each once.
    """
    channels = channels_of(settings)
    left_out: dict[str, None] = {}
    if channels != 3:
        for name in ('train', 'val', 'test'):
            for part in (f'{name}_dataloader', f'{name}_cfg'):
                _fit(settings.get(part), channels, left_out)
        model = settings['model']
        given = model.get('data_preprocessor')
        if given and given.get('type') in _PREPROCESSORS:
            given['type'] = _PREPROCESSORS[given['type']]
            given['bgr_to_rgb'] = False
    return list(left_out)


def _fit(part: Any, channels: int, left_out: dict[str, None]) -> None:
    """Change the lists of transforms below a part of a config."""
    if isinstance(part, MutableMapping):
        for name, value in part.items():
            _fit(value, channels, left_out)
            if name in _LISTS and isinstance(value, Sequence):
                kept = list(_fitted(value, channels, left_out))
                part[name] = kept
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for value in part:
            _fit(value, channels, left_out)


def _fitted(
    steps: Sequence, channels: int, left_out: dict[str, None]
) -> Iterator[Any]:
    edge: Any = None
    for step in steps:
        kind = step.get('type') if isinstance(step, Mapping) else None
        if kind in _LOADERS:
            yield dict(dict(channels=channels), **step)
        elif kind in _COLOURS:
            left_out[kind] = None
        elif kind == 'FastColorJitter':
            hues = {'saturation', 'hue'} & step.keys()
            left_out.update({f'{kind}.{name}': None for name in sorted(hues)})
            yield {k: v for k, v in step.items() if k not in hues}
        elif kind == 'torchvision/Resize':
            edge = step.get('size')
            if not isinstance(edge, int) or not _crops(steps):
                raise SimimError(
                    f'torchvision/Resize(size={edge}) of a pipeline takes '
                    f'three channels, and in_channels is {channels}; use '
                    'Resize in its place, or one size and then '
                    'torchvision/CenterCrop.'
                )
        elif kind == 'torchvision/CenterCrop':
            size = step.get('size')
            yield dict(type='EvaluationCrop', size=size, edge=edge or size)
        elif kind not in ('NumpyToPIL', 'PILToNumpy'):
            yield _replaced(step, kind)


def _crops(steps: Sequence) -> bool:
    kinds = [s.get('type') for s in steps if isinstance(s, Mapping)]
    return 'torchvision/CenterCrop' in kinds


def _replaced(step: Any, kind: Any) -> Any:
    """Return a transform in the place of one that needs Pillow."""
    if kind == 'torchvision/RandomResizedCrop':
        names = dict(
            size='scale', scale='crop_ratio_range', ratio='aspect_ratio_range'
        )
        given = {new: step[old] for old, new in names.items() if old in step}
        return dict(given, type='AnyChannelCrop')
    if kind == 'torchvision/RandomHorizontalFlip':
        return dict(type='RandomFlip', prob=step.get('p', 0.5))
    if kind == 'RandomResizedCrop':
        return _without(step, 'AnyChannelCrop', 'type')
    pillow = isinstance(step, Mapping) and step.get('backend') == 'pillow'
    if kind == 'Resize' and pillow:
        return _without(step, 'AnyChannelResize', 'type')
    if kind == 'RandomResize' and pillow:
        return _without(step, 'AnyChannelResize', 'resize_type')
    return step


def _without(step: Mapping, made: str, name: str) -> dict:
    """Return a transform with another class and without its backend."""
    kept = {
        k: v for k, v in step.items() if k not in ('backend', 'interpolation')
    }
    return dict(kept, **{name: made})
