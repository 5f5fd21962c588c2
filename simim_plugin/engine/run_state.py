"""Check the state of a run in a checkpoint before anything is resumed.

A run writes what its own optimizer, schedules and logs hold. Another structure
would end the run later, or change its course without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper

from ..checkpoint import CheckpointError

_LIKE_PARAMETERS = frozenset(
    {'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer'}
)
_WAYS = frozenset({'foreach', 'fused', 'capturable'})
"""Flags of an optimizer that change how fast it is, not what it computes."""


def broken_state(file: str, what: str) -> CheckpointError:
    """Return the error of a file whose state of a run is broken."""
    return CheckpointError(
        f'The state of a run in {file} is broken ({what[:200]}); resume from '
        'another checkpoint, or start a new run from its weights by '
        '--pretrained FILE.'
    )


def check_state(content: dict, file: str) -> None:
    """Check the entries of a checkpoint that hold the state of a run.

    Args:
        content (dict): of the checkpoint.
        file (str): its name, for the message.

    Raises:
        CheckpointError: if one has a value that no run writes.
    """
    for key in ('meta', 'optimizer', 'message_hub'):
        if not isinstance(content.get(key), dict):
            raise broken_state(file, key)
    _check_hub(content['message_hub'], file)
    meta = content['meta']
    layout = meta.get('layout', {})
    if not isinstance(layout, dict):
        raise broken_state(file, 'meta.layout')
    numbers = {f'meta.{key}': meta.get(key) for key in ('iter', 'epoch')}
    numbers |= {
        f'meta.layout.{key}': value
        for key, value in layout.items()
        if key != 'names' and value is not None
    }
    if meta.get('seed') is not None:
        numbers['meta.seed'] = meta['seed']
    for key, value in numbers.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not 0 <= value < 2**63:
            raise broken_state(file, key)
    if not isinstance(layout.get('names', ''), str):
        raise broken_state(file, 'meta.layout.names')


def _check_hub(hub: Mapping, file: str) -> None:
    """Check the values with which the log continues."""
    scalars = hub.get('log_scalars', {})
    if not isinstance(scalars, dict) or not all(
        isinstance(history, HistoryBuffer) for history in scalars.values()
    ):
        raise broken_state(file, 'message_hub.log_scalars')
    keys = hub.get('resumed_keys', {})
    if not isinstance(keys, dict) or not all(
        isinstance(flag, bool) for flag in keys.values()
    ):
        raise broken_state(file, 'message_hub.resumed_keys')


def check_schedules(own: list, states: Any, file: str) -> None:
    """Check that states of schedules are those of such schedules.

    Args:
        own (list): the schedules of this run, before their first step.
        states (list[dict]): of the checkpoint.
        file (str): its name, for the message.

    Raises:
        CheckpointError: if one lacks a number, or begins elsewhere.
    """
    if not isinstance(states, list) or len(states) != len(own):
        raise broken_state(file, 'param_schedulers')
    for number, (state, schedule) in enumerate(zip(states, own, strict=True)):
        place = f'param_schedulers.{number}'
        if not isinstance(state, dict):
            raise broken_state(file, place)
        for name, wanted in schedule.state_dict().items():
            value = state.get(name)
            if _numbers(wanted) and (
                _numbers(value) != _numbers(wanted)
                or (name == 'base_values' and value != wanted)
            ):
                raise broken_state(file, f'{place}.{name}')
        if type(state.get('last_step')) is not int:
            raise broken_state(file, f'{place}.last_step')


def moved_parameters(wrapper: Any) -> int | None:
    """Return the number of parameters that have an optimizer state."""
    if not isinstance(wrapper, OptimWrapper):
        return None
    return len(wrapper.optimizer.state)


def check_optimizer(
    wrapper: Any, content: dict, file: str, same: bool = True
) -> None:
    """Check that the state of an optimizer is that of such an optimizer.

    Args:
        wrapper (OptimWrapper): of this run. Others are left to mmengine.
        content (dict): of the checkpoint.
        file (str): its name, for the message.
        same (bool): its flags are those of this run. Defaults to True.

    Raises:
        CheckpointError: if a part of the state is missing or of another kind
            than in the rest of it.
    """
    if not isinstance(wrapper, OptimWrapper):
        return
    saved, own = content['optimizer'], wrapper.optimizer.param_groups
    groups, states = saved.get('param_groups'), saved.get('state')
    if not isinstance(groups, list) or not isinstance(states, dict):
        raise broken_state(file, 'optimizer')
    for group in groups:
        if not isinstance(group, dict) or not isinstance(
            group.get('params'), list
        ):
            raise broken_state(file, 'optimizer.param_groups')
    counts = [[len(g['params']) for g in side] for side in (groups, own)]
    if counts[0] != counts[1]:
        return  # torch refuses it, and the Runner explains it
    for number, (group, wanted) in enumerate(zip(groups, own, strict=True)):
        place = f'optimizer.param_groups.{number}'
        _check_group(group, wanted, place, file, same)
    numbers = [n for group in groups for n in group['params']]
    whole = all(type(n) is int for n in numbers)
    if not whole or numbers != [*range(len(numbers))]:
        raise broken_state(file, 'optimizer.param_groups')
    moved = content['meta'].get('moved', len(states))
    if moved is not None and moved != len(states):
        raise broken_state(
            file, f'the optimizer has the state of {len(states)} parameters'
        )
    _check_states(states, [p for g in own for p in g['params']], file)


def _check_group(
    group: dict, own: dict, path: str, file: str, same: bool
) -> None:
    """Check the settings of a group by those of this run."""
    for name, wanted in own.items():
        if name == 'params' or (
            name not in group and not _numbers(wanted)
        ):  # older versions of torch have fewer flags
            continue
        value = group.get(name)
        if _numbers(wanted):
            fits = _numbers(value) == _numbers(wanted)
        elif name in _WAYS or wanted is None:
            fits = value is None or isinstance(value, bool)
        else:
            fits = type(value) is type(wanted)
            fits = fits and (value == wanted or not same)
        if not fits:
            raise broken_state(file, f'{path}.{name}')


def _numbers(value: Any) -> int:
    """Return how many finite numbers a setting has, 0 for other kinds."""
    if isinstance(value, (list, tuple)):
        return len(value) if all(map(_numbers, value)) else 0
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 else None
    number = isinstance(value, Real) and not isinstance(value, bool)
    return int(number and math.isfinite(value))


def _check_states(states: dict, parameters: list, file: str) -> None:
    """Check that parameters alike have states alike, of finite numbers."""
    first: dict[int, dict] = {}  # by the dimensions of the parameter
    for number, state in states.items():
        place = f'optimizer.state.{number!r:.20}'
        known = type(number) is int and 0 <= number < len(parameters)
        if not known or not isinstance(state, dict):
            raise broken_state(file, place)
        parameter = parameters[number]
        kinds = {
            name: _kind(name, value, parameter)
            for name, value in state.items()
        }
        others = first.setdefault(parameter.ndim, kinds)
        for name in sorted(map(str, kinds.keys() | others.keys())):
            if kinds.get(name) in ('', None) or kinds[name] != others.get(
                name
            ):
                raise broken_state(file, f'{place}.{name[:40]}')


def _kind(name: str, value: Any, parameter: torch.Tensor) -> str:
    """Describe a value of the state of a parameter, '' for a broken one."""
    if not isinstance(value, torch.Tensor):
        if isinstance(value, float) and not math.isfinite(value):
            return ''
        if name in _LIKE_PARAMETERS and value is not None:
            return ''
        return type(value).__name__
    if value.is_floating_point() and not value.isfinite().all():
        return ''
    if name in _LIKE_PARAMETERS and value.shape != parameter.shape:
        return ''
    if value.shape == parameter.shape:
        return f'{value.dtype} alike'
    return f'{value.dtype} {"in a shape" if value.ndim else "alone"}'
