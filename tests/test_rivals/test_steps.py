"""Whole steps of two processes equal those of one on the joined batch."""

import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.dist import get_rank, get_world_size
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TRANSFORMS

import simim_plugin.rivals  # noqa: F401  # registers components
from simim_plugin.config_files import config_path
from simim_plugin.engine import FullyShard
from simim_plugin.engine.sharding import check_torch
from simim_plugin.errors import SimimError
from simim_plugin.runs.processes import ProcessMixin, together

from ..training_processes import in_two

NAMES = ('beit', 'densecl', 'dino', 'ibot', 'moco-v3', 'msn')
IMAGES = 6
try:
    check_torch()
    HAS_SHARDS = True
except SimimError:
    HAS_SHARDS = False


def batch_of(config) -> dict:
    """Draw the views and masks of the joined batch."""
    random.seed(0)
    np.random.seed(0)
    noise = np.random.default_rng(0)
    transforms = [TRANSFORMS.build(t) for t in config.train_pipeline[1:]]
    samples = []
    for _ in range(IMAGES):
        pixels = noise.integers(0, 256, (72, 96, 3), np.uint8)
        results = dict(img=pixels)
        for transform in transforms:
            results = transform(results)
        samples.append(results)
    return default_collate(samples)


def step(name, shares=False) -> dict[str, torch.Tensor]:
    """Take a step in float64; return its losses, gradients and states."""
    init_default_scope('mmpretrain')
    os.environ['SIMIM_SCALE'] = 'demo'
    config = Config.fromfile(config_path(f'siamese_im_rival-{name}.py'))
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    batch = model.data_preprocessor(batch_of(config), training=True)
    if name == 'beit':
        model.target_generator.fit(torch.rand(16, 3, 64, 64), rounds=1)
    model.double().train()
    if name == 'beit':
        model.target_generator.float()
    for part in model.modules():  # its draws differ between the processes
        if type(part).__name__ == 'DropPath':
            part.drop_prob = 0.0
    count = IMAGES // get_world_size()
    part = slice(get_rank() * count, (get_rank() + 1) * count)
    inputs = [view[part].double() for view in batch['inputs']]
    spread = model
    if shares:
        spread = FullyShard(together(config, model))
    elif get_world_size() > 1:
        runner = SimpleNamespace(distributed=True, cfg=config)
        spread = ProcessMixin.wrap_model(runner, None, model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    losses = spread(inputs, batch['data_samples'][part], mode='loss')
    loss = losses['loss']
    loss.backward()
    found = {f'loss {key}': value.detach() for key, value in losses.items()}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f'gradient {key}'] = whole(parameter.grad)
    optimizer.step()
    if hasattr(model, 'update_target'):  # moves centres and queues, too
        model.update_target(0.9)
    for key, value in model.state_dict().items():
        found[f'state {key}'] = value.clone()
    return found


def whole(gradient):
    """Return a gradient, gathered from its shards if need be."""
    gather = getattr(gradient, 'full_tensor', gradient.clone)
    return gather()


def every_step() -> dict[str, dict]:
    """Return the steps of all names, plain and on shards."""
    steps = {name: step(name) for name in NAMES}
    if HAS_SHARDS:
        steps |= {f'{name}.shards': step(name, True) for name in NAMES}
    return steps


@pytest.fixture(scope='module')
def steps():
    """Take all steps in two processes."""
    return in_two(every_step)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_a_step_of_two_processes_equals_one(name, steps):
    first, second = (found[name] for found in steps)
    one = step(name)
    assert one.keys() == first.keys() == second.keys()
    for key, wanted in one.items():
        found = first[key]
        if key.startswith('loss'):
            found = (found + second[key]) / 2
        else:
            assert torch.equal(found, second[key]), key
        check_near(key, found, wanted)


def check_near(key, found, wanted):
    # A bias before a BatchNorm has zero gradient, up to rounding, which
    # AdamW divides by its eps.
    least = 1e-2 if key.startswith('state') else 1e-3
    error = (found - wanted).double().abs().max()
    bound = 1e-9 * wanted.double().abs().max().clamp(min=least)
    assert error <= bound, (key, error)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SHARDS, reason='FullyShard needs torch 2.8')
@pytest.mark.parametrize('name', NAMES)
def test_a_step_of_shards_equals_that_of_copies(name, steps):
    copies, shards = steps[0][name], steps[0][f'{name}.shards']
    assert copies.keys() == shards.keys()
    for key, wanted in copies.items():
        check_near(key, shards[key], wanted)
