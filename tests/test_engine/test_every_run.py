"""What every run watches: bounded histories, and a finite loss."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from simim_plugin.errors import SimimError
from simim_plugin.runs import history
from simim_plugin.runs.memory import explain_full_memory
from simim_plugin.runs.open_files import explain_open_files

from .training import GUARD, Pairs, make_runner, scalars

SAME = (
    'loss',
    'positive_term',
    'negative_term',
    'lr',
    'grad_norm',
    'seen',
    'wide',
)


@HOOKS.register_module(force=True)
class CountingHook(Hook):
    """Log a figure that some iterations lack."""

    def after_train_iter(self, runner, *_, **__):
        if runner.iter % 2:
            runner.message_hub.update_scalar('train/seen', runner.iter)


def trained(folder, monkeypatch, bound, resume=None, epochs=2, **log):
    """Train steps of 6 an epoch, and return the Runner and its scalars."""
    if bound is None:
        monkeypatch.setattr(history, '_longest_window', lambda runner: None)
    else:
        monkeypatch.setattr(history, '_LEAST', bound)
    runner = make_runner(
        folder,
        [dict(type='CountingHook')],
        epochs=epochs,
        log_processor=dict(dict(window_size=3), **log),
        resume=resume is not None,
        load_from=resume,
    )
    runner.folder = folder
    runner.train()
    monkeypatch.undo()
    return runner


def figures(runner):
    """Return what was logged, but for the times."""
    return [
        {name: line[name] for name in line if name in SAME}
        for line in scalars(runner)
    ]


LOGS = {
    'window': (3, {}),
    'epoch': (6, dict(
        custom_cfg=[
            dict(data_src='loss', log_name='wide', method_name='mean',
                 window_size='epoch'),
        ]
    )),
    'global': (12, dict(
        custom_cfg=[
            dict(data_src='loss', log_name='wide', method_name='max',
                 window_size='global'),
        ]
    )),
}  # fmt: skip


@pytest.mark.parametrize(('most', 'log'), LOGS.values(), ids=LOGS)
def test_the_bound_changes_no_written_scalar(tmp_path, monkeypatch, most, log):
    whole = trained(tmp_path / 'whole', monkeypatch, None, **log)
    bounded = trained(tmp_path / 'bounded', monkeypatch, 1, **log)
    assert figures(whole) == figures(bounded)
    assert len(figures(whole)) == 12
    (kept, all_of_it) = (
        {
            name: len(figure.data[0])
            for name, figure in runner.message_hub.log_scalars.items()
        }
        for runner in (bounded, whole)
    )
    assert all_of_it['train/loss'] == 12
    assert kept['train/loss'] == most


def test_an_old_history_is_bounded_when_it_is_resumed(tmp_path, monkeypatch):
    def run(name, bound):
        trained(tmp_path / name, monkeypatch, None, epochs=2)
        file = str(tmp_path / name / 'epoch_2.pth')
        return trained(
            tmp_path / f'{name}_on', monkeypatch, bound, file, epochs=3
        )

    whole, bounded = run('whole', None), run('bounded', 1)
    assert len(whole.message_hub.get_scalar('train/loss').data[0]) == 18
    assert len(bounded.message_hub.get_scalar('train/loss').data[0]) == 3
    assert figures(whole) == figures(bounded)
    saved = torch.load(
        tmp_path / 'bounded_on' / 'epoch_3.pth', weights_only=False
    )['message_hub']['log_scalars']['train/loss']
    assert len(saved.data[0]) == 3


def test_hooks_that_read_a_window_keep_it(tmp_path, monkeypatch):
    monkeypatch.setattr(history, '_LEAST', 1)
    runner = make_runner(
        tmp_path, [dict(type='ThroughputHook', interval=5, max_wait=0.0)]
    )
    runner.train()
    kept = runner.message_hub.get_scalar('train/time').data[0]
    assert len(kept) == 5


@pytest.mark.parametrize('guard', [[], [GUARD]], ids=['plain', 'guarded'])
@pytest.mark.parametrize('images', [4, 8])
def test_a_short_run_without_a_finite_loss_fails(tmp_path, guard, images):
    data = Pairs(size=images, spoiled=range(images))
    runner = make_runner(tmp_path, guard, dataset=data)
    steps = images // 4
    words = f'not finite in any of the {steps} iterations'
    with pytest.raises(SimimError, match=words):
        runner.train()
    assert not list(tmp_path.glob('epoch_*.pth'))


def test_a_long_run_without_a_finite_loss_fails_early(tmp_path, monkeypatch):
    monkeypatch.setattr('simim_plugin.runs.finite_loss._PATIENCE', 4)
    data = Pairs(spoiled=range(24))
    runner = make_runner(tmp_path, dataset=data)
    with pytest.raises(SimimError, match='any of the 4 iterations'):
        runner.train()
    assert runner.iter == 3


def test_one_finite_loss_is_enough(tmp_path):
    runner = make_runner(tmp_path, [GUARD], dataset=Pairs(8, spoiled=[5]))
    runner.train()
    assert runner.iter == 2
    assert math.isfinite(
        runner.message_hub.get_scalar('train/loss').data[0][0]
    )


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (OSError(24, 'Too many open files'), 'limit of open files'),
        (RuntimeError('received 0 items of ancdata'), 'limit of open files'),
        (
            RuntimeError('unable to allocate shared memory(shm) for file <x>'),
            '/dev/shm',
        ),
    ],
)
def test_limits_of_the_system_are_named(error, words):
    with pytest.raises(SimimError, match=words), explain_open_files():
        raise error


def test_a_full_gpu_is_named():
    error = torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to ...')
    words = r'^The GPU is out of memory; .*/troubles\.md#out-of-memory\.$'
    with pytest.raises(SimimError, match=words), explain_full_memory():
        raise error


def test_a_run_without_memory_ends_in_a_sentence(tmp_path, monkeypatch):
    runner = make_runner(tmp_path)
    monkeypatch.setattr(
        type(runner.model), 'train_step', lambda *_, **__: torch.empty(2**55)
    )
    with pytest.raises(SimimError, match=r'^The machine is out of memory'):
        runner.train()


@pytest.mark.parametrize('explain', [explain_open_files, explain_full_memory])
def test_other_errors_pass(explain):
    with pytest.raises(ZeroDivisionError), explain():
        1 / 0  # noqa: B018
    with pytest.raises(RuntimeError, match=r'^another$'), explain():
        raise RuntimeError('another')
