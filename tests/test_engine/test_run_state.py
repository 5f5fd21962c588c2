"""The state of a run in a checkpoint has the structure that a run writes."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from torch import nn

from simim_plugin.checkpoint import CheckpointError, read_checkpoint
from simim_plugin.checkpoint.unpickling import UnknownObject
from simim_plugin.engine.run_state import (
    check_optimizer,
    check_schedules,
    check_state,
    moved_parameters,
)
from simim_plugin.engine.schedule import WarmupCosineLR

ODD = [None, True, -1, 0, 1.5, 2**70, math.nan, math.inf, 'x', [], {}]
ODD += [[1, 'x'], torch.ones(2), torch.tensor(1), UnknownObject('a.Class')]


def start():
    """Return a model, its optimizer and its schedules."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    optimizer = torch.optim.AdamW(model[:2].parameters(), lr=0.1)
    optimizer.add_param_group(dict(params=model[2].weight, lr=0.2))
    schedule = WarmupCosineLR(optimizer, warmup=1, end=9, by_epoch=False)
    return model, OptimWrapper(optimizer), [schedule]


def step(model, wrapper, schedules):
    wrapper.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    wrapper.optimizer.step()
    for schedule in schedules:
        schedule.step()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A state after two steps, as it is read from a file."""
    run = start()
    for _ in range(2):
        step(*run)
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    file = tmp_path_factory.mktemp('run') / 'iter_2.pth'
    content = dict(
        meta=dict(iter=2, epoch=0, seed=3, moved=moved_parameters(run[1])),
        state_dict=run[0].state_dict(),
        optimizer=run[1].state_dict(),
        param_schedulers=[schedule.state_dict() for schedule in run[2]],
        message_hub=dict(
            log_scalars={'train/loss': history},
            runtime_info=dict(iter=2),
            resumed_keys={'train/loss': True},
        ),
    )
    torch.save(content, file)
    return read_checkpoint(file)


def resume(content) -> nn.Module:
    """Check a state, go on by a step and return the model."""
    model, wrapper, schedules = start()
    check_state(content, 'file.pth')
    check_optimizer(wrapper, content, 'file.pth')
    check_schedules(schedules, content.get('param_schedulers'), 'file.pth')
    model.load_state_dict(content['state_dict'])
    wrapper.load_state_dict(content['optimizer'])
    saved = content['param_schedulers']
    for schedule, state in zip(schedules, saved, strict=True):
        schedule.load_state_dict(state)
    step(model, wrapper, schedules)
    return model


def places(content, path=()):
    items = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for key, value in [*items]:
        yield content, key, (*path, key)
        yield from places(value, (*path, key))


def changed(content, draw):
    """Drop, repeat, reshape or replace one entry; name the change."""
    found = [p for p in places(content) if p[2][0] != 'state_dict']
    part = draw.choice(['optimizer', 'param_schedulers', 'message_hub'])
    found = [p for p in found if p[2][0] == part]
    depth = draw.choice(sorted({len(path) for *_, path in found}))
    inside, key, path = draw.choice([p for p in found if len(p[2]) == depth])
    value = inside[key]
    match draw.randrange(5):
        case 0:
            del inside[key]
        case 1 if isinstance(value, torch.Tensor):
            inside[key] = draw.choice(
                [
                    value[None],
                    value.flatten() if value.ndim > 1 else value[None],
                    value.to(torch.int8),
                    value.double(),
                    value * math.nan,
                    value.to(torch.complex64),
                    value.new_zeros(0),
                ]
            )
        case 2 if isinstance(inside, list):
            inside.append(copy.deepcopy(value))
        case 3 if isinstance(value, dict):
            value['odd'] = 1
        case _:
            inside[key] = copy.deepcopy(draw.choice(ODD))
    return '.'.join(map(str, path))


def test_changed_states_go_on_right_or_are_refused(whole):
    expected = resume(copy.deepcopy(whole)).state_dict()
    ends = {True: 0, False: 0}
    for seed in range(600):
        content = copy.deepcopy(whole)
        place = changed(content, random.Random(seed))
        try:
            found = resume(content).state_dict()
        except CheckpointError as error:
            assert '\n' not in str(error), place
            ends[False] += 1
            continue
        except ValueError as error:  # torch's, which the Runner explains
            assert 'parameter group' in str(error), place
            continue
        ends[True] += 1
        same = all(torch.equal(found[n], expected[n]) for n in expected)
        # A finite number in the place of another is taken as it stands.
        assert same or place.startswith('optimizer.param_groups'), place
    assert min(ends.values()) > 50, ends


@pytest.mark.parametrize(
    'place',
    [
        'optimizer.state.0',
        'optimizer.state.1.exp_avg',
        'optimizer.state.2.step',
        'optimizer.param_groups.0.betas',
        'optimizer.param_groups.1.lr',
        'optimizer.param_groups.0.params',
        'param_schedulers.0.base_values',
        'param_schedulers.0._global_step',
    ],
)
def test_a_part_that_is_missing_is_named(whole, place):
    content = copy.deepcopy(whole)
    for inside, key, path in [*places(content)]:
        if '.'.join(map(str, path)) == place:
            del inside[key]
    with pytest.raises(CheckpointError, match=r'file\.pth is broken'):
        resume(content)


def test_older_states_are_taken(whole):
    """Before, a run did not write how many parameters have a state."""
    content = copy.deepcopy(whole)
    del content['meta']['moved']
    for group in content['optimizer']['param_groups']:
        del group['foreach'], group['fused']
    resume(content)
    content['optimizer']['param_groups'][0]['lr'] = np.float64(0.1)
    resume(content)


@pytest.mark.parametrize(
    'kind',
    [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adafactor]
    if hasattr(torch.optim, 'Adafactor')
    else [torch.optim.SGD, torch.optim.RMSprop],
)
def test_other_optimizers_are_taken(kind):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    scale = nn.Parameter(torch.tensor(1.0))
    optimizer = kind([*model.parameters(), scale], lr=0.1)
    (model(torch.ones(2, 4)).sum() * scale).backward()
    optimizer.step()
    wrapper = OptimWrapper(optimizer)
    content = dict(meta={}, optimizer=copy.deepcopy(wrapper.state_dict()))
    check_optimizer(wrapper, content, 'file.pth')
