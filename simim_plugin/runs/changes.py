"""Find the settings that differ from those of the run to resume.

The rules are in ``_RULES``: a setting is free, asks for a flag, or cannot
take effect in a run that has begun. Settings of the Runner that are not in
``_COMPARED`` have no effect on the weights: paths, logging, evaluation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple

_COMPARED = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'custom_hooks',
    'default_hooks',
    'randomness',
    'sync_bn',
    'efficient_conv_bn_eval',
)
_WATCHING = '|'.join(
    (
        *('ThroughputHook', 'CollapseMonitor', 'OnlineKNN', 'OnlineMatches'),
        *('ClassCountHook', 'MaskHook', 'OneChannelHook', 'OneSizeHook'),
        *('MultiScaleTestHook', 'NamedPicturesHook', 'SafeCheckpointHook'),
        *('CheckpointHook', 'LoggerHook', 'IterTimerHook', 'RuntimeInfoHook'),
        *('EmptyCacheHook', 'PrepareTTAHook', r'\w*ProfilerHook'),
        *('ClassNumCheckHook', 'NumClassCheckHook', 'CheckInvalidLossHook'),
        r'\w*VisualizationHook',
    )
)
"""Hooks of ours and of OpenMMLab that change no weight. They check, measure,
write or draw."""


class Kind(Enum):
    """How a change affects a run that has begun."""

    FREE = 'free'  # not at all: it is listed
    LENGTH = 'length'  # other schedules: it needs --extend
    LAYOUT = 'layout'  # another order of images: it needs --restart-epoch
    COURSE = 'course'  # in another way: it needs --accept-changes
    FIXED = 'fixed'  # it cannot take effect: it is refused


# The first pattern that matches a whole dotted key decides; None ignores it.
_RULES: tuple[tuple[str, Kind | None], ...] = (
    # The names of the images are compared instead (``layout``).
    (
        r'train_dataloader\.(.+\.)?(data_root|data_prefix|backend_args)(\..+)?',
        None,
    ),
    (r'train_cfg\.restart_epoch', None),
    # Others, of schedules and of the order of images, act on the weights.
    (
        r'default_hooks\.(runtime_info|timer|logger|checkpoint|visualization)'
        r'(\..+)?',
        Kind.FREE,
    ),
    (rf'custom_hooks\.({_WATCHING})\+*(\..+)?', Kind.FREE),
    # The guard itself decides whether a step is taken.
    (r'custom_hooks\.NonFiniteGuard\+*\.(max_in_row|max_saved)', Kind.FREE),
    # The tokens of a run that has begun are in its checkpoint.
    (r'custom_hooks\.FitTokenizerHook\+*\.(images|rounds)', Kind.FIXED),
    (r'custom_hooks\.FitTokenizerHook\+*\.type', Kind.FREE),
    (
        r'train_dataloader\.(num_workers|persistent_workers|pin_memory'
        r'|pin_memory_device|prefetch_factor|timeout|multiprocessing_context)',
        Kind.FREE,
    ),
    (
        r'train_dataloader\.dataset\.(.+\.)?(skip_broken|lazy_init'
        r'|serialize_data|max_refetch)',
        Kind.FREE,
    ),
    (
        r'train_cfg\.(val_interval|val_begin|dynamic_intervals)(\..+)?',
        Kind.FREE,
    ),
    (r'randomness\.deterministic', Kind.FREE),
    (r'train_cfg\.max_(epochs|iters)', Kind.LENGTH),
    (r'param_scheduler\.(\d+\.)?end', Kind.LENGTH),
    (r'train_dataloader\.batch_size', Kind.LAYOUT),
    (r'train_dataloader\.dataset\.(.+\.)?indices(\..+)?', Kind.LAYOUT),
    (r'optim_wrapper\.accumulative_counts', Kind.LAYOUT),
    (r'train_cfg\.(type|by_epoch)', Kind.FIXED),
    (r'randomness\.seed|train_dataloader\.sampler\.seed', Kind.FIXED),
    (
        r'(model|data_preprocessor)\.(.+\.)?(pretrained|init_cfg)(\..+)?',
        Kind.FIXED,
    ),
    # The state of an optimizer belongs to its type and to its groups.
    (
        r'optim_wrapper\.optimizer\.(lr|weight_decay|betas|eps|momentum'
        r'|dampening|nesterov|fused|foreach)(\..+)?',
        Kind.COURSE,
    ),
    (
        r'optim_wrapper\.(constructor|paramwise_cfg|optimizer)(\..+)?',
        Kind.FIXED,
    ),
)
_ABSENT = 'absent'


class Change(NamedTuple):
    """A setting that differs: its dotted key, both values and its kind."""

    key: str
    old: Any
    new: Any
    kind: Kind

    def __str__(self) -> str:
        key = ascii(self.key)[1:-1]  # a file may hold escape codes
        return f'{key}: {_short(self.old)} -> {_short(self.new)}'


def changes(old: str, new: str) -> list[Change]:
    """Compare two configs as mmengine writes them (``Config.pretty_text``).

    Their text is parsed, not run, for it may come from anywhere.

    Args:
        old (str): the config of the run in a checkpoint.
        new (str): the config of this run.

    Raises:
        ValueError: if a text is no config.
    """
    before, now = (dict(_flat(settings(text))) for text in (old, new))
    found = []
    for key in {**before, **now}:
        was, is_now = before.get(key, _ABSENT), now.get(key, _ABSENT)
        kind = _kind(key)
        if kind is None or was == is_now:
            continue
        if kind is Kind.FIXED and _asks_nothing(key, was, is_now):
            continue
        found.append(Change(key, was, is_now, kind))
    return found


def settings(text: str) -> dict[str, Any]:
    """Parse the text of a config.

    Raises:
        ValueError: if it is no list of assignments.
    """
    try:
        return {
            node.targets[0].id: _value(node.value)  # type: ignore
            for node in ast.parse(text).body
        }
    except (SyntaxError, RecursionError, MemoryError, AttributeError) as error:
        raise ValueError('the text is no config') from error


def fixed_ends(new: str, length: int) -> list[str]:
    """Return the keys of schedules whose ``end`` is written as ``length``."""
    schedulers = settings(new).get('param_scheduler', {})
    return [
        key
        for key, value in _flat(dict(param_scheduler=schedulers))
        if key.endswith('.end') and value == length
    ]


def some(found: Iterable[Change]) -> str:
    """Return changes in words, no more than four."""
    words = [str(change) for change in found]
    more = len(words) - 4
    tail = [f'{more} more, listed above'] if more > 0 else []
    return ', '.join(words[:4] + tail)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(_value(k)): _value(v) for k, v in pairs if k}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict':
        return {str(k.arg): _value(k.value) for k in node.keywords}
    try:
        return ast.literal_eval(node)
    except ValueError:  # a class, inf
        return ast.unparse(node)


def _flat(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the dotted key of each value that holds no others."""
    if not key:
        value = {k: value[k] for k in _COMPARED if k in value}
    if key == 'custom_hooks' and isinstance(value, list):
        value = _by_type(value)
    if key in ('', 'custom_hooks', 'default_hooks') and not value:
        return  # as without the setting
    if isinstance(value, list):
        value = {str(k): item for k, item in enumerate(value)} or value
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f'{key}.{name}' if key else name)
    elif key.endswith(('ann_file', 'list_file', 'dataset.classes')) and (
        isinstance(value, str)
    ):
        yield key, PurePath(value).name  # the images are compared apart
    else:
        yield key, value


def _by_type(hooks: list[Any]) -> dict[str, Any]:
    """Name hooks by their type, as their order may change."""
    named: dict[str, Any] = {}
    for hook in hooks:
        kind = hook.get('type') if isinstance(hook, Mapping) else hook
        name = str(kind).rpartition('.')[2]
        while name in named:
            name += '+'
        named[name] = hook
    return named


def _kind(key: str) -> Kind | None:
    for pattern, kind in _RULES:
        if re.fullmatch(pattern, key):
            return kind
    return Kind.COURSE


def _asks_nothing(key: str, old: Any, new: Any) -> bool:
    """Return whether a setting without effect is only left out.

    A run goes on with its own seed and weights.
    """
    if key == 'randomness.seed':
        return None in (old, new) or _ABSENT in (old, new)
    if key.startswith('custom_hooks.'):
        return _ABSENT in (old, new)
    weights = re.search(r'\.(pretrained|init_cfg)', key)
    return weights is not None and new in (None, _ABSENT)


def _short(value: Any) -> str:
    text = value if value == _ABSENT else ascii(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
