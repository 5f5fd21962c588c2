"""Monitors: their figures, and runs that go wrong on purpose."""

import json
import math
import mmap
import multiprocessing
import os
import random
import re
import socket
import subprocess
import time
from contextlib import nullcontext
from itertools import combinations, count
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmpretrain.registry import HOOKS, OPTIM_WRAPPERS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)
from torch import nn
from torch.utils.data import Dataset

from simim_plugin.checkpoint import read_checkpoint
from simim_plugin.engine import AutocastOptimWrapper, SiameseIMRunner
from simim_plugin.engine.monitors import effective_rank, feature_figures
from simim_plugin.engine.optim import has_fused
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import (
    extract_features,
    folder_dataset,
    image_loader,
    knn_accuracy,
    online_knn,
)
from simim_plugin.models import UniGradHead

from ..test_models.helpers import small_batch, small_model


class Pairs(Dataset):
    """Items as the pair pipeline makes them; some of them spoiled.

    Args:
        size (int): number of images.
        spoiled (set[int]): images that are NaN.
        seconds (float): time to load one.
    """

    def __init__(self, size=24, spoiled=(), seconds=0.0):
        self.inputs, self.samples = small_batch(size=size)
        self.seconds = seconds
        for k in spoiled:
            self.inputs[0][k] = math.nan

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, k):
        time.sleep(self.seconds)
        views = [view[k] for view in self.inputs]
        return dict(inputs=views, data_samples=self.samples[k])


def make_runner(
    folder, hooks=(), dataset=None, model=None, epochs=1, **options
):
    """A Runner of epochs of 6 steps of 4 images."""
    optim_wrapper = dict(
        type='AutocastOptimWrapper',
        optimizer=dict(type='AdamW', lr=0.001),
        clip_grad=dict(max_norm=1.0),
    )
    optim_wrapper.update(options.pop('optim_wrapper', {}))
    return SiameseIMRunner(
        model or small_model(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            drop_last=True,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
            dataset=dataset or Pairs(),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=optim_wrapper,
        custom_hooks=[dict(type='MomentumHook', base_momentum=0.9), *hooks],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        log_processor=dict(window_size=1),
        default_scope='mmpretrain',
        randomness=dict(seed=0),
        experiment_name=str(folder),
        cfg=Config(dict(train_dataloader=dict(batch_size=4))),
        **options,
    )


@pytest.fixture
def train(tmp_path):
    """Run with the given hooks; the Runner, with its folder."""
    init_default_scope('mmpretrain')
    number = count()

    def run(*hooks, **options):
        folder = tmp_path / f'run{next(number)}'
        run.runner = make_runner(folder, hooks, **options)
        run.runner.folder = folder
        run.runner.train()
        return run.runner

    return run


def printed(runner) -> str:
    (file,) = runner.folder.glob('*/*.log')
    return file.read_text()


def scalars(runner) -> list[dict]:
    (file,) = runner.folder.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


# Figures


def directly(target, prediction):
    """Every figure from its definition, pair by pair."""
    _, patches, dim = target.shape
    rows = target.reshape(-1, dim)
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(
        rows.var(1, keepdims=True) + 1e-5
    )
    singular = np.linalg.svd(rows, compute_uv=False)
    share = singular / singular.sum()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    predicted = prediction.reshape(-1, dim)
    predicted /= np.linalg.norm(predicted, axis=1, keepdims=True)
    within, between, kernel = [], [], []
    for a, b in combinations(range(len(unit)), 2):
        alike = a // patches == b // patches
        (within if alike else between).append(unit[a] @ unit[b])
        kernel.append(math.exp(-2 * np.sum((unit[a] - unit[b]) ** 2)))
    return dict(
        rank=math.exp(-np.sum(share * np.log(share))),
        token_std=rows.std(axis=0).mean(),
        cos_image=np.mean(within),
        cos_batch=np.mean(between),
        align=np.mean(np.sum((unit - predicted) ** 2, axis=1)),
        uniform=math.log(np.mean(kernel)),
    )


def test_figures_against_their_definitions():
    generator = torch.Generator().manual_seed(0)
    target, prediction = torch.randn(2, 3, 5, 4, generator=generator)
    target = target + 1.5 * torch.randn(3, 1, 4, generator=generator)
    expected = directly(target.double().numpy(), prediction.double().numpy())
    figures = feature_figures(target, prediction)
    assert figures == pytest.approx(expected, rel=1e-4)
    # Half precision, as under autocast, is measured in float32.
    half = feature_figures(target.bfloat16(), prediction.bfloat16())
    assert half == pytest.approx(expected, rel=0.05)
    assert 'align' not in feature_figures(target)


def test_figures_of_features_that_have_collapsed():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(8, 16, 32, generator=generator)
    healthy = feature_figures(spread)
    assert healthy['rank'] > 25
    assert healthy['token_std'] > 0.9
    constant = feature_figures(spread[:1, :1].expand_as(spread))
    assert constant['rank'] == pytest.approx(1, abs=0.1)  # rounding
    assert constant['token_std'] == pytest.approx(0, abs=0.001)
    assert constant['cos_batch'] == pytest.approx(1)
    assert constant['uniform'] == pytest.approx(0, abs=1e-4)
    per_image = feature_figures(spread[:, :1].expand_as(spread))
    assert per_image['cos_image'] == pytest.approx(1)
    assert per_image['cos_batch'] < 0.2
    few = spread[..., :3] @ torch.randn(3, 32, generator=generator)
    assert feature_figures(few)['rank'] < 3.1


@pytest.mark.parametrize('size', [1, 5, 64])
def test_without_pairs_there_is_no_cosine(size):
    torch.manual_seed(0)
    figures = feature_figures(torch.randn(size, 1, 8))  # one patch
    assert math.isnan(figures['cos_image'])
    assert math.isnan(figures['cos_batch']) is (size == 1)
    figures = feature_figures(torch.randn(1, size, 8))  # one image
    assert math.isnan(figures['cos_batch'])
    assert math.isnan(figures['cos_image']) is (size == 1)


def test_rank_is_of_the_matrix_of_the_negative_term():
    torch.manual_seed(0)
    target = torch.randn(2, 9, 6)
    prediction = torch.randn(2, 9, 6)
    terms = UniGradHead().loss(prediction, target)
    tokens = torch.nn.functional.layer_norm(target, (6,)).flatten(0, 1)
    correlation = tokens.T @ tokens / 18
    rows = prediction.flatten(0, 1)
    negative = ((rows @ correlation) * rows).sum() / 18
    assert negative == pytest.approx(terms['negative_term'].item())
    rank = effective_rank(correlation).item()
    assert feature_figures(target)['rank'] == pytest.approx(rank)
    assert effective_rank(torch.eye(6)).item() == pytest.approx(6)


# Collapse

QUICK = dict(type='CollapseMonitor', interval=2, patience=2)


def test_a_healthy_run_is_measured_without_a_verdict(train):
    runner = train(QUICK, epochs=2)
    assert 'Collapse at' not in printed(runner)
    log = scalars(runner)
    assert 'rank' not in log[0]
    for name in ('rank', 'token_std', 'cos_image', 'cos_batch'):
        assert all(name in line for line in log[1:]), name
    assert all({'align', 'uniform'} <= line.keys() for line in log[1:])
    # Measured at every second iteration, standing still in between.
    assert log[1]['rank'] == log[2]['rank'] != log[3]['rank']
    assert 1 < log[1]['rank'] < 16
    # It listens to no other iteration.
    model = runner.model
    for part in (model.target['projector'], model.neck):
        assert not part._forward_hooks


@torch.no_grad()
def flatten(model, kind):
    """Give the target projector features that have collapsed."""
    weight = torch.zeros(16, 16)

    def constant(part, inputs, output):
        return output.mean(dim=(0, 1), keepdim=True).expand_as(output)

    def per_image(part, inputs, output):
        return output.mean(dim=1, keepdim=True).expand_as(output)

    def narrow(part, inputs, output):
        weight[:, 0] = torch.linspace(-1, 1, 16)
        return output @ weight.T

    collapse = dict(constant=constant, per_image=per_image, narrow=narrow)
    model.target['projector'].register_forward_hook(collapse[kind])
    return model


@pytest.mark.parametrize(
    ('kind', 'verdict'),
    [
        ('constant', r'all but constant \(token_std .*limit'),
        ('per_image', r'alike over all patches of an image \(cos_image'),
        ('narrow', r'fill few of 16 directions \(rank 1\.0.*limit'),
    ],
)
def test_a_collapsed_run_gets_a_verdict(train, kind, verdict):
    settings = dict(QUICK, min_rank=0.1)
    runner = train(settings, model=flatten(small_model(), kind))
    log = printed(runner)
    # At the second measurement in a row, once.
    (line,) = re.findall(f'.*Collapse at.*{verdict}.*', log)
    assert 'WARNING' in line
    assert 'at iteration 4:' in line
    with pytest.raises(SimimError, match=f'^Collapse at it.*{verdict}'):
        train(dict(settings, stop=True), model=flatten(small_model(), kind))
    assert train.runner.iter == 3


def test_a_run_that_collapses_by_itself(train):
    """No negatives, no momentum and no BatchNorm, at the usual limits."""
    model = small_model()
    model.head.negative_weight = 0.0
    for part in (model.projector, model.target['projector'], model.neck):
        for layer in part.layers:
            layer.ln1, layer.ln2 = nn.LayerNorm(16), nn.LayerNorm(16)
    model.target.requires_grad_(False)
    hooks = [
        dict(type='MomentumHook', base_momentum=0.0),
        dict(type='CollapseMonitor', interval=6),
    ]
    faster = dict(optimizer=dict(type='AdamW', lr=0.01))
    runner = train(*hooks, model=model, epochs=10, optim_wrapper=faster)
    assert re.search(
        r'Collapse at iteration \d+: .*token_std', printed(runner)
    )


def test_other_algorithms_are_left_alone(train):
    model = small_model()
    keep = model.target
    model.target = None
    model.encode_target = lambda view: keep['projector'](
        keep['backbone'](view)[0]
    )[:, 1:].detach()
    model.update_target = lambda momentum: None
    runner = train(QUICK, model=model, epochs=1)
    assert 'CollapseMonitor has nothing to watch' in printed(runner)
    assert 'rank' not in scalars(runner)[-1]


# Losses that are no numbers

GUARD = dict(type='NonFiniteGuard')
NO_CLIPPING = dict(clip_grad=None)
FUSED = pytest.param(
    dict(optimizer=dict(type='AdamW', lr=0.001, fused=True)),
    marks=pytest.mark.skipif(
        not has_fused('cpu'), reason='fused on a CPU needs torch 2.4'
    ),
)


def state(runner) -> dict:
    """Parameters, statistics and moments, all that a step may change."""
    moments = runner.optim_wrapper.optimizer.state_dict()['state']
    return {
        **{n: v.clone() for n, v in runner.model.state_dict().items()},
        **{
            f'{k}.{name}': value.clone()
            for k, of_parameter in moments.items()
            for name, value in of_parameter.items()
        },
    }


@HOOKS.register_module(force=True)
class StateHook(Hook):
    """Notes the state before and after every iteration."""

    priority = 'LOWEST'

    def before_train(self, runner):
        runner.states = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.states.append([state(runner)])

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        runner.states[-1].append(state(runner))


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize('optim_wrapper', [{}, NO_CLIPPING, FUSED])
def test_a_step_of_a_bad_batch_leaves_no_trace(train, optim_wrapper):
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
    # The loss is logged as it was.
    assert [math.isnan(line['loss']) for line in scalars(runner)] == unchanged


def test_the_collapse_monitor_leaves_nan_to_the_guard(train):
    # The target view, too: what the monitor sees.
    data = Pairs(spoiled=[4])
    data.inputs[1][4] = math.nan
    runner = train(QUICK, GUARD, dataset=data)
    assert 'A step is skipped: loss' in printed(runner)
    assert 'Collapse at' not in printed(runner)
    ranks = [line['rank'] for line in scalars(runner)[1:]]
    assert [math.isnan(rank) for rank in ranks] == [True, True] + [False] * 3


def test_what_is_saved_gives_the_same_loss_again(train):
    runner = train(GUARD, dataset=Pairs(spoiled=[9, 17]))
    folder = runner.folder / 'nonfinite'
    # Once, however often it happens.
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
    # One image of the four is to blame.
    assert [view.isnan().any().item() for view in views[0]] == [
        False,
        True,
        False,
        False,
    ]


def test_evidence_that_cannot_be_written_is_said(train, monkeypatch):
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
def test_accumulation_names_the_iteration_that_began_it(train, accumulated):
    counts = dict(accumulative_counts=accumulated)
    data = Pairs(spoiled=[1])
    hooks = [GUARD, dict(type='StateHook')]
    runner = train(*hooks, dataset=data, optim_wrapper=counts)
    assert 'of rank 0 at iteration 1 not finite' in printed(runner)
    before, after = runner.states[0][0], runner.states[accumulated - 1][1]
    assert same(before, after)
    assert not same(after, runner.states[-1][1])
    assert (runner.folder / 'nonfinite/iter_1_rank_0_batch.pth').exists()


def test_a_gradient_alone_that_is_not_finite(train):
    model = small_model()
    calls = count()
    model.neck.mask_token.register_hook(
        lambda gradient: gradient * (math.inf if next(calls) == 1 else 1)
    )
    runner = train(GUARD, dict(type='StateHook'), model=model)
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
        # So large that the first steps overflow, as scalers begin.
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
@pytest.mark.parametrize('clipping', [dict(max_norm=1.0), None])
def test_a_scaler_that_finds_its_scale_is_left_alone(train, clipping):
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


# kNN


@pytest.fixture
def folders(tmp_path):
    """Three classes of coloured noise, 12 images to vote and 6 to tell."""
    generator = np.random.default_rng(0)
    for split, images in (('train', 12), ('val', 6)):
        for k in range(images):
            folder = tmp_path / split / 'abc'[k % 3]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 100, (16, 16, 3), np.uint8)
            pixels[..., k % 3] += 60
            Image.fromarray(pixels).save(folder / f'{k}.png')
    return dict(train=str(tmp_path / 'train'), val=str(tmp_path / 'val'))


def knn_entries(runner) -> list[dict]:
    return [line for line in scalars(runner) if 'knn/top1_k3' in line]


def test_online_knn_is_the_packages_knn(train, folders):
    hook = dict(type='OnlineKNN', **folders, interval=2, k=3)
    runner = train(hook, epochs=3)
    entries = knn_entries(runner)
    # Every second epoch, and the last, by the steps done.
    assert [(e['epoch'], e['step']) for e in entries] == [(2, 12), (3, 18)]
    assert runner.model.training
    (train_, val) = (
        extract_features(
            runner.model, image_loader(folder_dataset(folders[name], 16))
        )
        for name in ('train', 'val')
    )
    expected = knn_accuracy(*train_, *val, ks=[3])[3]
    assert entries[-1]['knn/top1_k3'] == expected
    assert (
        f'kNN after epoch 3: {expected:.2f} % of 6 images (k = 3, 12 images '
        'vote)'
    ) in printed(runner)


def test_online_knn_on_fewer_images(train, folders):
    hook = dict(type='OnlineKNN', **folders, k=3, max_train=5, max_val=3)
    assert '% of 3 images (k = 3, 5 images vote)' in printed(train(hook))


class Drawn(Pairs):
    """Items that depend on the random state of all three generators."""

    def __getitem__(self, k):
        item = super().__getitem__(k)
        shift = random.random() + np.random.rand() + torch.rand(1).item()
        item['inputs'] = [view + shift for view in item['inputs']]
        return item


def test_training_goes_on_as_without_online_knn(train, folders, monkeypatch):
    states = []
    hook = dict(type='OnlineKNN', **folders, interval=1, k=3)
    for hooks in ([], [hook]):
        states.append(state(train(*hooks, dataset=Drawn(), epochs=3)))
    assert same(*states)
    # It does draw: without its care the states differ.
    monkeypatch.setattr(online_knn, 'same_random_state', nullcontext)
    assert not same(state(train(hook, dataset=Drawn(), epochs=3)), states[0])


def test_online_knn_misses_a_folder_before_training(train, folders):
    hook = dict(type='OnlineKNN', **dict(folders, val='/no/such/folder'))
    with pytest.raises(SimimError, match='no image folder at /no/such'):
        train(hook)
    assert train.runner.iter == 0


def test_online_knn_needs_an_image_for_every_process(
    train, folders, monkeypatch
):
    monkeypatch.setattr(online_knn, 'get_world_size', lambda: 8)
    with pytest.raises(SimimError, match=r'6 images of .*val.* 8 processes'):
        train(dict(type='OnlineKNN', **folders))
    assert train.runner.iter == 0


def test_a_stop_during_online_knn_finds_its_checkpoint(train, folders):
    """It goes to all processes, the loader's too."""
    model, signalled = small_model(), []

    def stop(*_):
        if model.training or signalled:
            return
        (worker,) = multiprocessing.active_children()
        for name in ('-TERM', '-USR1'):  # from elsewhere: ours would end it
            subprocess.check_call(['kill', name, str(worker.pid)])
        signalled.append((train.runner.folder / 'epoch_1.pth').exists())

    model.backbone.register_forward_hook(stop)
    hook = dict(type='OnlineKNN', **folders, batch_size=1, num_workers=1)
    assert 'kNN after epoch 1' in printed(train(hook, model=model))
    assert signalled == [True]


def test_online_knn_is_seen_in_tensorboard_and_while_it_lasts(
    train, folders, monkeypatch, capfd
):
    monkeypatch.setattr('simim_plugin.evaluation.features.QUIET_SECONDS', 0.0)
    backends = [
        dict(type='LocalVisBackend'),
        dict(type='TensorboardVisBackend'),
    ]
    runner = train(
        dict(type='OnlineKNN', **folders, k=3, batch_size=4),
        visualizer=dict(type='Visualizer', vis_backends=backends),
    )
    assert 'features: batch 1 of 3, ' in capfd.readouterr().err
    (folder,) = runner.folder.glob('*/vis_data')
    events = EventAccumulator(str(folder))
    events.Reload()
    (event,) = events.Scalars('knn/top1_k3')
    assert event.step == 6
    (entry,) = knn_entries(runner)
    assert event.value == pytest.approx(entry['knn/top1_k3'])


# Throughput


def test_waiting_for_data_and_memory_are_logged(train):
    # Whatever the machine does beside: more than none of the time, and
    # never more than all of it.
    hook = dict(type='ThroughputHook', interval=3, max_wait=0.0)
    run = train(hook, dataset=Pairs(seconds=0.1))
    warning = r'Training waited for data \d+% of the time in iterations (.*):'
    assert re.findall(warning, printed(run)) == ['1 to 3', '4 to 6']
    assert 'num_workers (now 0)' in printed(run)
    last = scalars(run)[-1]
    assert last['data_wait'] == pytest.approx(
        last['data_time'] / last['time'], rel=1e-6
    )
    assert 0 < last['data_wait'] < 1
    assert last['data_time'] > 0.1
    assert last['images_per_second'] == pytest.approx(4 / last['time'])
    assert 'Training waited' not in printed(train(dict(hook, max_wait=1.0)))


@pytest.mark.skipif(torch.cuda.is_available(), reason='mmengine logs that')
def test_memory_is_what_the_process_holds(train):
    grown = []

    class Growing(Pairs):
        def __getitem__(self, k):
            # Not from memory that earlier tests have left free.
            pages = mmap.mmap(-1, 16 * 2**20)
            pages.write(bytes(16 * 2**20))
            grown.append(pages)
            return super().__getitem__(k)

    log = scalars(train(dict(type='ThroughputHook'), dataset=Growing()))
    growth = log[-1]['memory'] - log[0]['memory']
    assert growth == pytest.approx(5 * 4 * 16, rel=0.3)


# Two processes


def two_processes(rank, port, folder):
    """A run of two processes: a NaN in the second one's third batch."""
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
    )
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    # Shares are dealt out one by one; 21 is rank 1's third of batch 3.
    runner = make_runner(
        Path(folder) / 'run',
        [dict(QUICK, patience=1, min_rank=1.0), GUARD, dict(type='StateHook')],
        dataset=Pairs(spoiled=[21]),
        launcher='pytorch',
    )
    runner.train()
    unchanged = [same(*pair) for pair in runner.states]
    seen = json.dumps([unchanged, scalars_of_hub(runner)])
    Path(folder, f'rank{rank}.json').write_text(seen)
    torch.distributed.destroy_process_group()


def scalars_of_hub(runner) -> list[float]:
    hub = runner.message_hub
    names = ('rank', 'token_std', 'cos_image', 'uniform', 'align')
    return [hub.get_scalar(f'train/{name}').current() for name in names]


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(two_processes, (port, str(tmp_path)), 2)
    first, second = (
        json.loads((tmp_path / f'rank{rank}.json').read_text())
        for rank in (0, 1)
    )
    assert first == second
    assert first[0] == [False, False, True]
    (log,) = (tmp_path / 'run').glob('*/*.log')
    told = log.read_text()
    # BatchNorm and the correlation, which span both, carry it to the other.
    terms = 'loss, positive_term, negative_term'
    for rank in (0, 1):
        assert f'{terms} of rank {rank} at iteration 3' in told
    files = {file.name for file in (tmp_path / 'run/nonfinite').iterdir()}
    batches = {f'iter_3_rank_{rank}_batch.pth' for rank in (0, 1)}
    assert files == {'iter_3.pth', *batches}
