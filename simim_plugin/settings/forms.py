"""The forms of the Runner's own arguments, and keys that mmengine reads."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.registry import MODELS

from ..errors import SimimError
from .rules import FACTOR, YES_NO, Rule, either, one_of
from .signatures import accepted
from .whole import Faults, Whole

_PLAIN = (str, bytes, int, float, list, tuple)


def _is_form(*kinds: type) -> Callable[[Any], bool]:
    """Return whether a value is None, of a kind, or an object of a class."""
    return lambda value: (
        isinstance(value, kinds) or not isinstance(value, _PLAIN)
    )


DICTIONARY = Rule(_is_form(), 'a dictionary')
LIST = Rule(_is_form(list, tuple), 'a list of dictionaries')
NEEDED = Rule(lambda value: isinstance(value, Mapping), 'a dictionary')
NAME = Rule(lambda value: isinstance(value, str), 'a name')
PATH = either(NAME, None)
LEVEL = Rule(
    lambda value: (
        type(value) is int
        or (
            isinstance(value, str)
            and isinstance(logging.getLevelName(value), int)
        )
    ),
    'DEBUG, INFO, WARNING or ERROR',
)

SCOPE = Rule(
    lambda value: (
        value is None
        or (
            isinstance(value, str)
            and value.isidentifier()
            and (value in MODELS.children or find_spec(value) is not None)
        )
    ),
    'the name of an installed library, such as mmpretrain',
)

FORMS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *('model', 'data_preprocessor', 'optim_wrapper', 'visualizer'),
            *('train_dataloader', 'val_dataloader', 'test_dataloader'),
            *('train_cfg', 'val_cfg', 'test_cfg', 'log_processor'),
            *('default_hooks', 'auto_scale_lr', 'model_wrapper_cfg'),
        ),
        DICTIONARY,
    ),
    **dict.fromkeys(('env_cfg', 'randomness', 'custom_imports'), NEEDED),
    'env_cfg.mp_cfg': NEEDED,
    'env_cfg.dist_cfg': NEEDED,
    'optim_wrapper.clip_grad': DICTIONARY,
    'optim_wrapper.paramwise_cfg': DICTIONARY,
    'optim_wrapper.paramwise_cfg.custom_keys': NEEDED,
    'param_scheduler': LIST,
    'custom_hooks': LIST,
    'val_evaluator': LIST,
    'test_evaluator': LIST,
    'work_dir': NAME,
    'experiment_name': PATH,
    'load_from': PATH,
    'default_scope': SCOPE,
    'log_level': LEVEL,
    'launcher': one_of('none', 'pytorch', 'slurm', 'mpi'),
    'resume': YES_NO,
    'auto_scale_lr.enable': YES_NO,
    'find_unused_parameters': YES_NO,
    'sync_bn': either(one_of('torch', 'mmcv'), None),
    'compile': Rule(
        lambda value: value is None or isinstance(value, bool | Mapping),
        'True, False or the arguments of torch.compile',
    ),
    'compile.modules': Rule(
        lambda value: (
            value is True
            or (
                isinstance(value, list | tuple)
                and all(isinstance(name, str) for name in value)
                and bool(value)
            )
        ),
        'True or a list of names of modules of the model',
    ),
}
"""Names of arguments, or of what is below one, and their forms."""

_HOOKS = (
    *('runtime_info', 'timer', 'logger', 'param_scheduler', 'checkpoint'),
    'sampler_seed',
)


def check_forms(settings: Mapping) -> None:
    """Refuse an argument of the Runner that has a wrong form.

    Args:
        settings (Mapping): the arguments of a Runner.

    Raises:
        SimimError: with a sentence for each.
    """
    faults = [*wrong_forms(settings)]
    if faults:
        raise SimimError(' '.join(faults))


def wrong_forms(settings: Mapping) -> Iterator[str]:
    """Yield a sentence for each argument of the Runner of a wrong form."""
    for path, rule in FORMS.items():
        *above, name = path.split('.')
        inner: Any = settings
        for key in above:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if not isinstance(inner, Mapping) or name not in inner:
            continue
        if not rule.holds(inner[name]):
            yield f'{path} is {inner[name]!r}; set it to {rule.words}.'
    hooks = settings.get('default_hooks')
    given = hooks if isinstance(hooks, Mapping) else {}
    for name, item in given.items():
        if isinstance(item, Mapping) and 'type' not in item:
            yield (
                f'default_hooks.{name} has no type; set default_hooks.{name}'
                f'.type, or one of {", ".join(_HOOKS)}.'
            )
    for path in ('custom_hooks', 'param_scheduler'):
        items: Any = settings.get(path)
        if not isinstance(items, list | tuple):
            continue
        for number, item in enumerate(items):
            if isinstance(item, _PLAIN):
                yield f'{path}.{number} is {item!r}; set it to a dictionary.'


def compiling(whole: Whole) -> Faults:
    """The arguments of torch.compile have names that it knows."""
    given = whole.settings.get('compile')
    if isinstance(given, Mapping):
        known = {*inspect.signature(torch.compile).parameters, 'modules'}
        known -= {'model'}
        for name in given.keys() - known:
            yield (
                f'compile.{name} is no argument of torch.compile; set one of '
                f'{", ".join(sorted(known))}.'
            )


def custom_keys(whole: Whole) -> Faults:
    """A custom key sets multipliers, or settings of the optimizer."""
    optimizer = whole.at('optim_wrapper.optimizer')
    wrapper = whole.at('optim_wrapper')
    given = (wrapper.get('paramwise_cfg') if wrapper else None) or {}
    of_optimizer = optimizer and optimizer.made and accepted(optimizer.made)
    if not of_optimizer:
        return
    # MMPretrain's LARS and SimSiamHook read the last two.
    known = {'lr_mult', 'decay_mult', 'lars_exclude', 'fix_lr', *of_optimizer}
    for key, settings in (given.get('custom_keys') or {}).items():
        path = f'optim_wrapper.paramwise_cfg.custom_keys.{key}'
        if not isinstance(settings, Mapping):
            yield f'{path} is {settings!r}; set it to dict(lr_mult=0.1).'
            continue
        for name, value in settings.items():
            if name not in known:
                yield (
                    f'{path}.{name} is no setting of a group of parameters; '
                    'set lr_mult or decay_mult.'
                )
            elif name.endswith('_mult') and not FACTOR.holds(value):
                yield f'{path}.{name} is {value!r}; set it to {FACTOR.words}.'
