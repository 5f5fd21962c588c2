"""The guard against losses and gradients that are not finite."""

import math
import re
from itertools import count

import pytest
import torch
from mmpretrain.registry import OPTIM_WRAPPERS

from simim_plugin.checkpoint import read_checkpoint
from simim_plugin.engine import AutocastOptimWrapper
from simim_plugin.engine.optim import has_fused
from simim_plugin.errors import SimimError

from ..test_models.helpers import small_model
from .training import GUARD, Pairs, printed, same, scalars, state

NO_CLIPPING = dict(clip_grad=None)
FUSED = pytest.param(
    dict(optimizer=dict(type='AdamW', lr=0.001, fused=True)),
    marks=pytest.mark.skipif(
        not has_fused('cpu'), reason='fused on a CPU needs torch 2.4'
    ),
)


@pytest.mark.parametrize('optim_wrapper', [{}, NO_CLIPPING, FUSED])
def test_a_bad_batch_changes_no_state(train, optim_wrapper):
    data = Pairs(spoiled=[9])  # of the third batch
    hooks = [GUARD, dict(type='StateHook')]
    runner = train(*hooks, dataset=data, optim_wrapper=optim_wrapper)
    unchanged = [same(*pair) for pair in runner.states]
    assert unchanged == [k == 2 for k in range(6)]
    assert all(v.isfinite().all() for v in state(runner).values())
    log = printed(runner)
    assert len(re.findall('A step is skipped', log)) == 1
    assert (
        'A step is skipped: loss, positive_term, negative_term of rank 0 at '
        'iteration 3 not finite.'
    ) in log
    # The log keeps the loss that is not finite.
    assert [math.isnan(line['loss']) for line in scalars(runner)] == unchanged


def test_saved_state_and_batch_reproduce_the_loss(train):
    runner = train(GUARD, dataset=Pairs(spoiled=[9, 17]))
    folder = runner.folder / 'nonfinite'
    # Saved only the first time.
    files = {file.name for file in folder.iterdir()}
    assert files == {'iter_3.pth', 'iter_3_rank_0_batch.pth'}
    saved = read_checkpoint(folder / 'iter_3.pth')
    assert saved['meta'] == dict(epoch=0, iter=2)
    assert saved['optimizer']['state'][0]['step'] == 2
    model = small_model()
    model.load_state_dict(saved['state_dict'])
    batch = torch.load(folder / 'iter_3_rank_0_batch.pth', weights_only=False)
    views, samples = batch['inputs'], batch['data_samples']
    assert model.loss(views, samples)['loss'].isnan()
    # One image of the four is the cause.
    assert [view.isnan().any().item() for view in views[0]] == [
        False,
        True,
        False,
        False,
    ]


def test_evidence_that_cannot_be_written_is_logged(train, monkeypatch):
    save = torch.save

    def fill(content, file):
        if 'nonfinite' in str(file):
            raise RuntimeError('PytorchStreamWriter failed writing file')
        save(content, file)

    monkeypatch.setattr(torch, 'save', fill)
    runner = train(GUARD, dataset=Pairs(spoiled=[9]))
    assert runner.iter == 6
    assert re.search(r'Cannot write .*iter_3\.pth: Pyt', printed(runner))


def test_three_in_a_row_end_the_run(train):
    # Two, one good batch, and three.
    data = Pairs(spoiled=[0, 4, 12, 16, 20])
    with pytest.raises(SimimError, match=r'after 3 steps in a row.*rank 0'):
        train(GUARD, dataset=data)
    assert train.runner.iter == 5


@pytest.mark.parametrize('accumulated', [2, 3])
def test_accumulation_names_the_first_bad_iteration(train, accumulated):
    counts = dict(accumulative_counts=accumulated)
    data = Pairs(spoiled=[1])
    hooks = [GUARD, dict(type='StateHook')]
    runner = train(*hooks, dataset=data, optim_wrapper=counts)
    assert 'of rank 0 at iteration 1 not finite' in printed(runner)
    before, after = runner.states[0][0], runner.states[accumulated - 1][1]
    assert same(before, after)
    assert not same(after, runner.states[-1][1])
    assert (runner.folder / 'nonfinite/iter_1_rank_0_batch.pth').exists()


@pytest.mark.parametrize(
    'clip_grad', [dict(max_norm=1.0), dict(type='value', clip_value=0.1), None]
)
def test_a_bad_gradient_of_a_finite_loss(train, clip_grad):
    """Clipping by value would take an infinite one for a large one."""
    model = small_model()
    calls = count()
    model.neck.mask_token.register_hook(
        lambda gradient: gradient * (math.inf if next(calls) == 1 else 1)
    )
    clipping = dict(clip_grad=clip_grad)
    hooks = [GUARD, dict(type='StateHook')]
    runner = train(*hooks, model=model, optim_wrapper=clipping)
    assert [same(*pair) for pair in runner.states][:3] == [False, True, False]
    assert (
        'A step is skipped: the gradient at iteration 2 is not finite, though '
        'the loss is.'
    ) in printed(runner)


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledWrapper(AutocastOptimWrapper):
    """A gradient scaler as mmengine's AmpOptimWrapper uses it, on a CPU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # The first steps overflow, as in every scaler.
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.0**127)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update()


on_cpu = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'),
    reason='a gradient scaler on a CPU needs torch 2.3',
)


@on_cpu
@pytest.mark.parametrize(
    'clipping', [dict(max_norm=1.0), dict(type='value', clip_value=0.1), None]
)
def test_a_scaler_may_search_for_its_scale(train, clipping):
    scaled = dict(type='ScaledWrapper', clip_grad=clipping)
    hooks = [GUARD, dict(type='StateHook')]
    data = Pairs(spoiled=[21])
    runner = train(*hooks, dataset=data, optim_wrapper=scaled)
    unchanged = [same(*pair) for pair in runner.states]
    scale = runner.optim_wrapper.loss_scaler.get_scale()
    assert scale <= 2.0**124
    assert unchanged[-1]
    assert 'is skipped' in printed(runner)
    assert 'at iteration 6 not finite' in printed(runner)
    assert len(re.findall('is skipped', printed(runner))) == 1


@on_cpu
def test_a_scaler_that_finds_no_scale_ends_the_run(train):
    model = small_model()
    model.neck.mask_token.register_hook(lambda gradient: gradient * math.nan)
    scaled = dict(type='ScaledWrapper')
    with pytest.raises(SimimError, match=r'50 steps in a row.* scale') as end:
        train(GUARD, model=model, epochs=9, optim_wrapper=scaled)
    assert 'gradient at iteration 50' in str(end.value)
    assert train.runner.iter == 49
