"""Find every part of a config that something is built from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine import registry as roots
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import Registry
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class Part:
    """A dictionary of a config, and what is built from it.

    Args:
        path (str): dotted path, as in ``--cfg-options``.
        settings (Mapping): the dictionary.
        made (Callable, optional): class or function; None if unknown.
        registry (Registry, optional): where its ``type`` must be found; None
            where something else may read the dictionary.
        also (frozenset[str]): names that are read before it is built.
    """

    path: str
    settings: Mapping
    made: Callable | None
    registry: Registry | None
    also: frozenset[str]

    @property
    def kind(self) -> Any:
        """The ``type``, None if there is none."""
        return self.settings.get('type')

    @property
    def short(self) -> str:
        """The name of the type, without the library that registers it."""
        name = getattr(self.kind, '__name__', self.kind or '')
        return str(name).rpartition('.')[2]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the type and of the classes that it inherits."""
        if isinstance(self.kind, str) and '/' in self.kind:
            return (self.kind,)  # wraps a class of torchvision
        bases = getattr(self.made, '__mro__', (self.made,))
        return tuple(getattr(base, '__name__', '') for base in bases)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting."""
        return self.settings.get(name, default)


_ALWAYS = frozenset({'type', '_scope_'})
_READ_BEFORE = {
    roots.HOOKS: {'priority'},
    roots.PARAM_SCHEDULERS: {'convert_to_iter_based', 'epoch_length'},
    roots.OPTIM_WRAPPERS: {'constructor', 'paramwise_cfg'},
    roots.LOOPS: {'by_epoch'},
    'loader': {'num_batch_per_epoch', 'disable_subprocess_warning'},
}
"""Names that mmengine reads from a dictionary before it builds from it."""

_TOP = {
    'model': roots.MODELS,
    'data_preprocessor': roots.MODELS,
    'train_dataloader': 'loader',
    'val_dataloader': 'loader',
    'test_dataloader': 'loader',
    'train_cfg': roots.LOOPS,
    'val_cfg': roots.LOOPS,
    'test_cfg': roots.LOOPS,
    'val_evaluator': roots.METRICS,
    'test_evaluator': roots.METRICS,
    'optim_wrapper': roots.OPTIM_WRAPPERS,
    'param_scheduler': roots.PARAM_SCHEDULERS,
    'default_hooks': 'hooks',
    'custom_hooks': roots.HOOKS,
    'visualizer': roots.VISUALIZERS,
    'log_processor': roots.LOG_PROCESSORS,
    'randomness': 'randomness',
    'model_wrapper_cfg': roots.MODEL_WRAPPERS,
}
_BELOW: dict[Any, dict[str, Any]] = {
    roots.MODELS: dict.fromkeys(
        (
            *('backbone', 'neck', 'head', 'projector', 'data_preprocessor'),
            *('decode_head', 'auxiliary_head', 'rpn_head', 'roi_head'),
            *('bbox_head', 'mask_head', 'bbox_roi_extractor'),
            'mask_roi_extractor',
        ),
        roots.MODELS,
    ),
    'loader': {
        'dataset': roots.DATASETS,
        'sampler': roots.DATA_SAMPLERS,
        'batch_sampler': roots.DATA_SAMPLERS,
        'collate_fn': roots.FUNCTIONS,
    },
    roots.DATASETS: {
        'dataset': roots.DATASETS,
        'datasets': roots.DATASETS,
        'pipeline': roots.TRANSFORMS,
    },
    roots.TRANSFORMS: {
        **dict.fromkeys(
            ('transforms', 'online', 'target', 'colour'), roots.TRANSFORMS
        ),
        'crops': 'crop',
    },
    'crop': {'colours': roots.TRANSFORMS},
    roots.OPTIM_WRAPPERS: {
        'optimizer': roots.OPTIMIZERS,
        'clip_grad': 'clip_grad',
        'paramwise_cfg': 'paramwise_cfg',
    },
    roots.LOOPS: {
        'train_dataloader': 'loader',
        'classifier': roots.TASK_UTILS,
    },
    roots.VISUALIZERS: {'vis_backends': roots.VISBACKENDS},
}
"""Registries of the dictionaries below one, by their keys."""

CLIPS = dict(norm=clip_grad_norm_, value=clip_grad_value_)
"""What mmengine calls with ``clip_grad``, by its ``type``."""

_WITHOUT_SCOPE = (roots.FUNCTIONS, roots.MODEL_WRAPPERS)
"""Registries that mmengine uses without the scope of a config."""

_NOT_OURS = ('Albu', 'Albumentations')
"""Transforms whose ``transforms`` another library builds."""

_ALL = [
    item
    for item in vars(roots).values()
    if isinstance(item, Registry) and item is not roots.RUNNERS
]


def find_parts(settings: Mapping, scope: str | None) -> list[Part]:
    """List the parts of a config, each after the one that holds it.

    Args:
        settings (Mapping): the arguments of a Runner.
        scope (str, optional): ``default_scope`` of the config; the present
            one if None.
    """
    return [
        part
        for key, kind in _TOP.items()
        for part in _walk(settings.get(key), key, kind, scope)
    ]


def _walk(
    value: Any, path: str, kind: Any, scope: str | None
) -> Iterator[Part]:
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk(item, f'{path}.{index}', kind, scope)
        return
    if not isinstance(value, Mapping):
        return
    scope = value.get('_scope_', scope)
    hooks = kind == 'hooks'
    below = _BELOW.get(kind, {})
    if not hooks:
        yield _part(value, path, kind, scope)
    if kind is roots.TRANSFORMS and value.get('type') in _NOT_OURS:
        below = {}
    for key, child in value.items():
        of_child = roots.HOOKS if hooks else below.get(key)
        yield from _walk(child, f'{path}.{key}', of_child, scope)


def _part(value: Mapping, path: str, kind: Any, scope: str | None) -> Part:
    registry = kind if isinstance(kind, Registry) else None
    made = value.get('type')
    if kind is roots.METRICS and 'metrics' in value:
        registry, made = roots.EVALUATOR, made or 'Evaluator'
    if kind is roots.OPTIM_WRAPPERS and 'optimizer' in value:
        made = made or 'OptimWrapper'
    if kind == 'clip_grad':
        made = CLIPS.get(made or 'norm')
    if isinstance(made, str) and registry in _WITHOUT_SCOPE:
        made = found(registry, made)
    elif isinstance(made, str) and registry is not None:
        with registry.switch_scope_and_registry(scope) as registry:
            made = found(registry, made)
    elif isinstance(made, str):
        made = anywhere(made, scope)
    elif made is None:
        registry, made = None, _without_type(value, path, kind)
    also = frozenset(_READ_BEFORE.get(kind, ())) | _ALWAYS
    return Part(path, value, made, registry, also)


def _without_type(value: Mapping, path: str, kind: Any) -> Any:
    """Return what mmengine calls with a dictionary that has no type."""
    if kind is roots.LOOPS:
        epochs = value.get('by_epoch', True)
        train = EpochBasedTrainLoop if epochs else IterBasedTrainLoop
        return dict(val_cfg=ValLoop, test_cfg=TestLoop).get(path, train)
    return {
        'loader': DataLoader,
        'randomness': Runner.set_randomness,
        roots.LOG_PROCESSORS: LogProcessor,
        roots.MODEL_WRAPPERS: MMDistributedDataParallel,
    }.get(kind)


def found(registry: Registry, name: str) -> Callable | None:
    """Return what a registry holds under a name, None if nothing."""
    try:
        return registry.get(name)
    except RuntimeError:  # of OneDL's mmengine
        return None


def anywhere(name: str, scope: str | None) -> Callable | None:
    """Return what the registries hold under a name, if it is one thing."""
    scope, _, name = name.rpartition('.') if '.' in name else (scope, '', name)
    hits = set()
    for root in _ALL:
        for registry in (root, root.children.get(scope)):
            if registry is not None and name in registry.module_dict:
                hits.add(registry.module_dict[name])
    return hits.pop() if len(hits) == 1 else None


def root_of(registry: Registry | None) -> Registry | None:
    """Return mmengine's registry above that of a library."""
    while registry is not None and registry.parent is not None:
        registry = registry.parent
    return registry


def known_names(registry: Registry) -> list[str]:
    """List the names that a registry and its parents hold."""
    names = list(registry.module_dict)
    while registry.parent is not None:
        registry = registry.parent
        names += registry.module_dict
    return names
