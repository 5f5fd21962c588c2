"""An interrupted run ends as an uninterrupted one, bit for bit."""

import copy
import inspect
import json
import multiprocessing
import pickle
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from simim_plugin.checkpoint import CheckpointError, read_checkpoint
from simim_plugin.engine import (
    ExactEpochLoop,
    SiameseIMRunner,
    checkpointing,
)
from simim_plugin.engine.checkpointing import SafeCheckpointHook, _set_aside
from simim_plugin.engine.resuming import latest_checkpoint
from simim_plugin.engine.seeding import Draw, SeededDataset, SeededSampler
from simim_plugin.errors import SimimError
from simim_plugin.rivals import RepeatedSampler

from .test_runner import LR, Pairs, make_runner  # noqa: F401

STATE = ('state_dict', 'optimizer', 'param_schedulers')
LOGGED = ('loss', 'grad_norm', 'lr', 'momentum')


def draws() -> list[float]:
    """Draw a number from each random generator."""
    return [random.random(), np.random.rand(), torch.rand(()).item()]


class NoisyPairs(Pairs):
    """Items that depend on all random generators."""

    def __getitem__(self, k):
        item = super().__getitem__(k)
        inputs = [view + sum(draws()) for view in item['inputs']]
        # A copy: sending it from a worker changes the original.
        sample = copy.deepcopy(item['data_samples'])
        return dict(inputs=inputs, data_samples=sample)


class Disturb(Hook):
    """Make the steps depend on all random generators, too."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for view in data_batch['inputs']:
            view *= sum(draws())


def settings(workers=0, accumulated=1, **options):
    """Two epochs of 6 iterations, a checkpoint after each step."""
    return dict(
        train_dataloader=dict(
            batch_size=4,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
            sampler=dict(type='SeededSampler', shuffle=True),
            collate_fn=dict(type='collate_pairs'),
            dataset=NoisyPairs(size=27),
        ),
        train_cfg=dict(type='ExactEpochLoop', max_epochs=2),
        optim_wrapper=dict(accumulative_counts=accumulated, on_cpu=False),
        custom_hooks=[
            dict(type='MomentumHook', base_momentum=0.9),
            dict(type='ThroughputHook'),
            dict(type=Disturb),
        ],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(
                type='SafeCheckpointHook', by_epoch=False, interval=accumulated
            ),
        ),
        log_processor=dict(window_size=4),
        **options,
    )


def same(a, b) -> bool:
    """Return whether two nested structures are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, HistoryBuffer):
        return same(a._log_history, b._log_history)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def logged(folder: Path) -> dict[int, list]:
    """Return the logged figures of a run by step."""
    lines = [
        json.loads(line)
        for file in sorted(folder.glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    return {
        line['step']: [line.get(name) for name in LOGGED] for line in lines
    }


def assert_same_run(whole: Path, part: Path, after: int, last='iter_12.pth'):
    """Check that two runs agree in final state, log and log history."""
    a, b = (read_checkpoint(folder / last) for folder in (whole, part))
    for key in STATE:
        assert same(a[key], b[key]), key
    for name in ('train/loss', 'train/grad_norm', 'train/lr'):
        histories = [x['message_hub']['log_scalars'][name] for x in (a, b)]
        assert same(*histories), name
    steps, resumed = logged(whole), logged(part)
    assert list(resumed) == list(range(after + 1, 13))
    assert all(steps[step] == resumed[step] for step in resumed)


CASES = {
    'plain': {},
    'bf16': dict(optim_wrapper=dict(on_cpu=True)),
    'two workers': dict(workers=2),
    'accumulated': dict(accumulated=3),
    'two workers, accumulated, bf16': dict(
        workers=2, accumulated=2, optim_wrapper=dict(on_cpu=True)
    ),
    'random seed': dict(randomness=dict(seed=None)),
    'fp16 with a scaler': dict(
        workers=2,
        accumulated=2,
        optim_wrapper=dict(
            type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic'
        ),
    ),
}


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[pytest.mark.gpu] * ('fp16' in name))
        for name in CASES
    ],
)
def test_resumed_run_is_the_same_run(make_runner, tmp_path, name):  # noqa: F811
    case = dict(CASES[name])
    wrapper = case.pop('optim_wrapper', {})
    accumulated = case.get('accumulated', 1)

    def run(folder, **options):
        options = settings(**case, **options)
        if 'type' in wrapper:
            del options['optim_wrapper']['on_cpu']
        options['optim_wrapper'].update(wrapper)
        make_runner(work_dir=str(tmp_path / folder), **options).train()

    run('whole')
    for after in {1: (2, 6, 11), 2: (4, 8), 3: (3, 9)}[accumulated]:
        for generator in (random.seed, np.random.seed, torch.manual_seed):
            generator(after)  # as in another process
        file = tmp_path / 'whole' / f'iter_{after}.pth'
        run(f'from_{after}', resume=True, load_from=str(file))
        assert_same_run(tmp_path / 'whole', tmp_path / f'from_{after}', after)


@pytest.fixture
def run(make_runner, tmp_path):  # noqa: F811
    """Train in ``run``, with options of a Runner."""

    def train(**options):
        options = {**settings(), **options}
        runner = make_runner(work_dir=str(tmp_path / 'run'), **options)
        runner.train()
        return runner

    return train


def test_no_worker_outlives_its_run(run):
    run(**settings(workers=2))
    assert not multiprocessing.active_children()


def test_a_broken_latest_checkpoint_is_skipped(run, tmp_path):
    run()
    folder = tmp_path / 'run'
    for step, keep in ((12, 0.5), (11, 0.999), (10, 0)):
        file = folder / f'iter_{step}.pth'
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * keep)])
    (folder / 'iter_13.pth.part').write_bytes(b'half')
    # Dates do not matter: copying a folder changes them.
    (folder / 'iter_3.pth').touch()
    best = read_checkpoint(folder / 'iter_9.pth')
    runner = run(resume=True)
    log = sorted(folder.glob('*/*.log'))[-1].read_text()
    assert 'resumed epoch: 1, iter: 9' in log
    for step in (12, 11, 10):
        assert 'Skipped a broken checkpoint: ' in log
        assert f'iter_{step}.pth' in log
    assert not (folder / 'iter_13.pth.part').exists()
    assert best['meta']['iter'] == 9
    assert runner.iter == 12


@pytest.mark.parametrize('resume', [False, True])
def test_half_a_checkpoint_is_removed(run, tmp_path, resume):
    """That of a killed process, at any start but that of a test."""
    run()
    half = tmp_path / 'run' / 'iter_13.pth.part'
    half.write_bytes(b'half')
    file = tmp_path / 'run' / 'iter_9.pth'
    run(resume=resume, load_from=str(file))
    assert not half.exists()


def test_no_checkpoint_starts_a_run_and_no_readable_one_is_an_error(
    run, tmp_path
):
    assert run(resume=True).iter == 12
    for file in (tmp_path / 'run').glob('*.pth'):
        file.write_bytes(b'broken')
    with pytest.raises(CheckpointError, match=r'None of the 12 checkpoints'):
        run(resume=True)


@pytest.mark.parametrize(
    ('batch_size', 'size', 'words'),
    [(2, 27, '1 processes x 2 images'), (4, 28, 'of 28 images')],
)
def test_another_layout_is_refused_or_begins_its_epoch_again(
    run, tmp_path, batch_size, size, words
):
    run()
    options = settings()
    options['train_dataloader'].update(
        batch_size=batch_size, dataset=NoisyPairs(size=size)
    )
    options.update(resume=True, load_from=str(tmp_path / 'run/iter_9.pth'))
    with pytest.raises(CheckpointError, match='--restart-epoch') as caught:
        run(**options)
    assert words in str(caught.value)
    options['train_cfg'].update(restart_epoch=True)
    options['custom_hooks'] = [*options['custom_hooks'], dict(type=Rates)]
    Rates.seen.clear()
    length = size // batch_size
    runner = run(**options)
    assert runner.iter == 2 * length
    # From the start of epoch 2, on the schedule of this run.
    peak = LR * batch_size / 64
    assert list(Rates.seen) == list(range(length, 2 * length))
    for step, rate in Rates.seen.items():
        decay = 0.5 * (1 + np.cos(np.pi * step / (2 * length)))
        assert rate == pytest.approx(peak * decay)


@pytest.mark.parametrize('step', [6, 12], ids=['middle', 'end'])
def test_a_complete_epoch_does_not_begin_again(run, tmp_path, step):
    """The checkpoint of its last step is not within an epoch."""
    run()
    options = settings()
    options['train_cfg'].update(restart_epoch=True)
    options['custom_hooks'] = [*options['custom_hooks'], dict(type=Rates)]
    options['train_dataloader'].update(dataset=NoisyPairs(size=31))
    file = str(tmp_path / f'run/iter_{step}.pth')
    Rates.seen.clear()
    runner = run(**options, resume=True, load_from=file)
    length = 31 // 4
    done = step // 6 * length
    assert list(Rates.seen) == list(range(done, 2 * length))
    assert runner.iter == 2 * length


def test_another_number_of_processes_is_refused(run, tmp_path):
    run()
    file = tmp_path / 'run' / 'iter_9.pth'
    content = read_checkpoint(file)
    content['meta']['layout']['processes'] = 2
    torch.save(content, file)
    words = r'had 2 processes x 4.* has 1 processes x 4.*--restart-epoch'
    with pytest.raises(CheckpointError, match=words):
        run(resume=True, load_from=str(file))


class Rates(Hook):
    """Record the learning rate of each step."""

    seen: ClassVar[dict[int, float]] = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen[runner.iter] = runner.optim_wrapper.get_lr()['lr'][0]


def test_a_checkpoint_of_mmengines_runner_is_refused_in_words(run, tmp_path):
    run()
    file = tmp_path / 'run' / 'iter_12.pth'
    content = read_checkpoint(file)
    del content['meta']['layout']
    torch.save(content, file)
    with pytest.raises(CheckpointError, match='no note of its place'):
        run(resume=True, load_from=str(file))


def test_an_epoch_is_a_whole_number_of_optimizer_steps(run):
    runner = run(**settings(accumulated=4))
    assert len(runner.train_dataloader) == 4
    assert runner.iter == 8
    with pytest.raises(SimimError, match=r'27 images.*4 x 8 accumulated'):
        run(**settings(accumulated=8))


def test_accumulation_fits_few_images_if_asked(run, tmp_path):
    options = settings(accumulated=8)
    options['train_cfg'].update(fit_accumulation=True)
    options['default_hooks']['checkpoint'].update(by_epoch=True, interval=1)
    runner = run(**options)
    assert len(runner.train_dataloader) == 6
    assert runner.iter == 12
    assert runner.optim_wrapper._accumulative_counts == 6
    file = tmp_path / 'run' / 'epoch_2.pth'
    assert read_checkpoint(file)['meta']['layout']['accumulated'] == 6
    options = settings(accumulated=3)
    options['train_cfg'].update(fit_accumulation=True)
    assert run(**options).optim_wrapper._accumulative_counts == 3


def test_fitted_accumulation_keeps_checkpoints_between_steps(run):
    options = settings(accumulated=8)
    options['train_cfg'].update(fit_accumulation=True)
    options['default_hooks']['checkpoint'].update(interval=8)
    assert run(**options).optim_wrapper._accumulative_counts == 4
    options = settings(accumulated=8)
    options['train_cfg'].update(fit_accumulation=True)
    options['default_hooks']['checkpoint'].update(interval=-1)
    assert run(**options).optim_wrapper._accumulative_counts == 6


def test_checkpoints_between_optimizer_steps_are_refused(run):
    options = settings(accumulated=3)
    options['default_hooks']['checkpoint'].update(interval=4)
    with pytest.raises(SimimError, match='multiple'):
        run(**options)


def test_a_sampler_that_cannot_seek_is_refused(run):
    options = settings()
    options['train_dataloader'].update(sampler=dict(type='DefaultSampler'))
    with pytest.raises(SimimError, match=r'DefaultSampler.*SeededSampler'):
        run(**options)


def test_the_last_good_checkpoint_stays_until_the_next_is_whole(
    run, tmp_path, monkeypatch
):
    folder, seen = tmp_path / 'run', []
    save = SiameseIMRunner.save_checkpoint

    def watch(self, *args, **kwargs):
        seen.append({file.name for file in folder.glob('*.pth')})
        save(self, *args, **kwargs)

    monkeypatch.setattr(SiameseIMRunner, 'save_checkpoint', watch)
    options = settings()
    options['default_hooks']['checkpoint'].update(interval=6, max_keep_ckpts=1)
    run(**options)
    assert seen == [set(), {'iter_6.pth'}]
    assert [file.name for file in folder.glob('*.pth')] == ['iter_12.pth']


class Killed(BaseException):
    pass


class Kill(Hook):
    """Raise before an iteration, like a kill from outside."""

    began = 0

    def __init__(self, at):
        self.at = at

    def before_train(self, runner):
        Kill.began = runner.iter

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            raise Killed


@pytest.fixture
def killed(run):
    """Train until an iteration and return the first iteration."""

    def train(at, batch_size=4, restart=False, **options):
        options = {**settings(), **options}
        options['custom_hooks'].append(dict(type=Kill, at=at))
        options['train_dataloader'].update(batch_size=batch_size)
        options['train_cfg'].update(restart_epoch=restart)
        with pytest.raises(Killed):
            run(**options)
        return Kill.began

    return train


def test_a_branch_is_resumed_instead_of_the_old_run(run, killed, tmp_path):
    folder = tmp_path / 'run'
    run()
    file = str(folder / 'iter_5.pth')
    for at in (5, 7):
        assert killed(at, resume=True, load_from=file) == 5
        assert (folder / 'iter_12.pth.stale').exists()
        assert killed(at, resume=True) == at
    logs = ''.join(file.read_text() for file in folder.glob('*/*.log'))
    assert len(re.findall('Set aside.* iter_12.pth', logs)) == 1
    assert run(resume=True).iter == 12
    assert (folder / 'iter_12.pth').exists()


def test_a_branch_of_a_run_elsewhere_begins_there(run, killed, tmp_path):
    run()
    folder = tmp_path / 'run'
    folder.rename(tmp_path / 'other')
    file = str(tmp_path / 'other/iter_9.pth')
    killed(9, resume=True, load_from=file)
    assert [path.name for path in folder.glob('*.pth')] == ['stop_iter_9.pth']
    assert killed(10, resume=True) == 9
    run(resume=True)
    assert not list(folder.glob('stop_*'))
    assert_same_run(tmp_path / 'other', folder, 9)


def test_a_new_run_is_resumed_instead_of_an_old_one(run, killed, tmp_path):
    folder = tmp_path / 'run'
    run()
    (folder / 'iter_12.pth').rename(folder / 'stop_iter_12.pth')
    (folder / 'mine.pth').touch()
    for at in (0, 2):
        assert killed(at) == 0
        assert (folder / 'stop_iter_12.pth.stale').exists()
        assert killed(at, resume=True) == at
    assert (folder / 'mine.pth').exists()


@pytest.mark.parametrize(('batch_size', 'length'), [(2, 13), (8, 3)])
def test_a_restarted_epoch_is_resumed(killed, batch_size, length):
    killed(9)
    options = dict(batch_size=batch_size, resume=True)
    assert killed(length, restart=True, **options) == length
    assert killed(length + 1, **options) == length
    assert killed(length + 1, **options) == length + 1


def test_a_stopped_run_resumes_in_epochs_of_any_length(tmp_path):
    for name in ('epoch_1.pth', 'stop_iter_9.pth', 'epoch_2.pth.stale'):
        torch.save({}, tmp_path / name)
    for length in (6, 13):
        file = latest_checkpoint(str(tmp_path), length, None)
        assert file == str(tmp_path / 'stop_iter_9.pth')


def test_the_checkpoint_left_by_a_kill_is_removed(run, tmp_path, monkeypatch):
    """A kill after the newest checkpoint, before the oldest is removed."""
    folder = tmp_path / 'run'
    options = settings()
    options['default_hooks']['checkpoint'].update(interval=2, max_keep_ckpts=2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, 'remove', lambda path: None)
        run(**options)
    kept = {'iter_10.pth', 'iter_12.pth'}
    for name in {f'iter_{k}.pth' for k in (2, 4, 6)}:
        (folder / name).rename(folder / f'own_{name}')
    run(resume=True, **options)
    assert {path.name for path in folder.glob('iter_*.pth')} == kept
    assert len(list(folder.glob('own_*.pth'))) == 3


# The parts


def test_sampler_seeks_to_any_place_of_any_epoch():
    sampler = SeededSampler(range(1000), seed=3)
    sampler.trim(64)
    assert len(sampler) == 960
    epochs = []
    for epoch in range(3):
        sampler.start(epoch, 0)
        epochs.append(list(sampler))
        assert [draw.epoch for draw in epochs[-1]] == [epoch] * 960
        assert len({draw.image for draw in epochs[-1]}) == 960
        for first in (1, 64, 959, 960):
            sampler.start(epoch, first)
            assert list(sampler) == epochs[-1][first:]
    assert [d.image for d in epochs[0]] != [d.image for d in epochs[1]]


class Draws:
    """Items that are random numbers."""

    data_root = 'here'

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return tuple(draws())


def test_items_follow_from_their_seed_alone():
    dataset = SeededDataset(Draws())
    items = {
        draw: dataset[draw]
        for draw in (
            Draw(s, e, k) for s in (0, 1) for e in (0, 1) for k in range(10)
        )
    }
    for generator in range(3):  # no generator repeats a number
        assert len({item[generator] for item in items.values()}) == 40
    for draw in reversed(items):
        assert dataset[draw] == items[draw]
    assert dataset.data_root == 'here'
    assert pickle.loads(pickle.dumps(dataset))[draw] == items[draw]


@pytest.mark.parametrize('round_up', [True, False])
@pytest.mark.parametrize('kind', [SeededSampler, RepeatedSampler])
def test_processes_have_equally_many_images(kind, round_up, monkeypatch):
    """Else one would wait for the gradients of another for ever."""
    draws = []
    for rank in (0, 1):
        monkeypatch.setattr(
            'mmengine.dataset.sampler.get_dist_info',
            lambda rank=rank: (rank, 2),
        )
        sampler = kind(range(9), seed=3, round_up=round_up)
        draws.append([*sampler])
        assert len(draws[-1]) == len(sampler) == (5 if round_up else 4)
    if not round_up:
        assert len({*draws[0], *draws[1]}) == 8


# Batches of one epoch after the other


@pytest.mark.parametrize('shuffle', [True, False])
def test_the_sampler_goes_on_through_epochs(shuffle):
    sampler = SeededSampler(range(10), shuffle=shuffle, seed=3)
    sampler.trim(4)
    parts = []
    for epoch, first in ((1, 4), (2, 0), (3, 0)):
        sampler.start(epoch, first)
        parts += [*sampler]
    assert len(parts) == 4 + 8 + 8
    sampler.start(1, 4, last=3)
    draws = iter(sampler)
    begun = next(draws)
    sampler.set_epoch(7)  # as a hook does between epochs
    assert [begun, *draws] == parts


def test_persistent_workers_go_on_to_the_next_epoch(
    make_runner,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """Their images are those of workers that begin each epoch anew."""
    begun = []
    start = SeededSampler.start

    def counted(sampler, epoch, first, last=None):
        begun.append((epoch, first, last))
        start(sampler, epoch, first, last)

    monkeypatch.setattr(SeededSampler, 'start', counted)
    for workers in (0, 1):
        folder = tmp_path / str(workers)
        make_runner(work_dir=str(folder), **settings(workers)).train()
    assert begun == [(0, 0, None), (1, 0, None), (0, 0, 1)]
    assert_same_run(tmp_path / '0', tmp_path / '1', after=0)


def test_a_pipeline_changed_between_epochs_takes_effect(
    make_runner,  # noqa: F811
    tmp_path,
):
    """MMPretrain's hook drops the iterator of persistent workers for this."""
    seen = []

    class Switch(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 1:
                loader = runner.train_loop.dataloader
                loader.dataset.dataset.inputs = [
                    torch.full_like(view, 7.0)
                    for view in loader.dataset.dataset.inputs
                ]
                loader._iterator = None

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            seen.append(data_batch['inputs'][0].std().item())

    options = settings(1)
    options['custom_hooks'] = [Switch()]
    options['train_dataloader']['dataset'] = Pairs(size=24)
    make_runner(work_dir=str(tmp_path), **options).train()
    assert min(seen[:6]) > 0.5
    assert seen[6:] == [0.0] * 6


READS = {'item', 'tolist', 'numpy', 'cpu', '__array__'}
READS |= {f'__{kind}__' for kind in ('bool', 'float', 'int', 'index')}


class Reads(TorchFunctionMode):
    """Note which functions read tensors: each waits for its device."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, '__name__', '') in READS:
            frame = inspect.currentframe().f_back
            self.places.append(frame.f_code.co_name)
        return function(*args, **(kwargs or {}))


class InnerReads(TorchDispatchMode):
    """Count the reads of single numbers, those inside of torch too."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('accumulated', [1, 3])
@pytest.mark.parametrize('clip_grad', [dict(max_norm=1.0), None])
def test_an_optimizer_step_waits_once(
    make_runner,  # noqa: F811
    tmp_path,
    monkeypatch,
    accumulated,
    clip_grad,
):
    """For the norm of the gradient, which decides whether to skip the step.

    Figures are read when a line of the log or a checkpoint takes them.
    """
    reads = []
    run_iter = ExactEpochLoop.run_iter

    def counted(loop, *batch):
        with InnerReads() as inner, Reads() as outer:
            run_iter(loop, *batch)
        reads.append((inner.count, outer.places))

    monkeypatch.setattr(ExactEpochLoop, 'run_iter', counted)
    options = settings(0, accumulated)
    options['optim_wrapper'].update(
        optimizer=dict(type='AdamW', lr=LR, fused=True), clip_grad=clip_grad
    )
    options['custom_hooks'][2] = dict(type='NonFiniteGuard')
    options['default_hooks']['checkpoint']['interval'] = 99
    options['default_hooks']['logger']['interval'] = 6
    runner = make_runner(work_dir=str(tmp_path), **options)
    runner.train()
    place = '_clip_grad' if clip_grad else '_finite_gradients'
    micro = [(0, [])] * (accumulated - 1)
    expected = [*micro, (1, [place])] * (12 // accumulated)
    # The first step begins the histories. The sixth is logged, the last saved.
    for k in {*range(12)} - {0, 5, 11}:
        assert reads[k] == expected[k], k
    assert reads[5][1].count('_settle') == 3
    hub = runner.message_hub
    terms = [
        hub.get_scalar(f'train/{name}').data[0]
        for name in ('positive_term', 'negative_term', 'loss')
    ]
    assert all(len(values) == 12 for values in terms)
    assert np.allclose(terms[0] + terms[1], terms[2])


def test_every_branch_that_is_set_aside_is_kept(tmp_path):
    runner = SimpleNamespace(
        work_dir=str(tmp_path),
        epoch=0,
        iter=0,
        logger=SimpleNamespace(warning=lambda text: None),
    )
    for text in 'abc':
        (tmp_path / 'epoch_6.pth').write_text(text)
        _set_aside(runner, own='')
    endings = ('stale', 'stale2', 'stale3')
    kept = [(tmp_path / f'epoch_6.pth.{e}').read_text() for e in endings]
    assert kept == ['a', 'b', 'c']


def test_the_best_checkpoint_of_another_run_is_left_alone(tmp_path):
    """Its name is in the checkpoint that a run elsewhere starts from."""
    mine, other = tmp_path / 'mine', tmp_path / 'other'
    for folder in (mine, other):
        folder.mkdir()
        (folder / 'best.pth').touch()
    hook = SafeCheckpointHook(save_best='a', rule='greater')
    hook.out_dir = str(mine)
    for path, kept in (
        (str(mine / 'best.pth'), str(mine / 'best.pth')),
        (str(other / 'best.pth'), None),
        (str(other), None),
        (str(mine / 'gone.pth'), None),
        (None, None),
    ):
        hook.key_indicators, hook.best_ckpt_path = ['a'], path
        hook._forget_best_of_others()
        assert hook.best_ckpt_path == kept
        hook.key_indicators = ['a', 'b']
        hook.best_ckpt_path_dict = dict(a=path, b=None)
        hook._forget_best_of_others()
        assert hook.best_ckpt_path_dict == dict(a=kept, b=None)
