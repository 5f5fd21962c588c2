"""Ctrl-C and a closed terminal stop a run with its state, in one line."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import simim_plugin.commands as commands
from simim_plugin.checkpoint import read_checkpoint
from simim_plugin.errors import one_line_interrupt
from simim_plugin.runs.stopping import _most_steps, record_stop_signals

from .test_faults import FIRST_STEP, epochs, fill
from .training_processes import TINY, Run, end_all

WORKERS = (
    'train_dataloader.num_workers=2',
    'train_dataloader.persistent_workers=True',
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'tiny.py').write_text(TINY)
    fill(tmp_path / 'images', 24)
    yield tmp_path
    end_all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGINT, 130), (signal.SIGHUP, 75)]
)
def test_a_terminal_stops_a_run_with_its_state(folder, number, code):
    run = Run(folder, *epochs(1000, *WORKERS))
    run.wait_for(FIRST_STEP)
    run.kill(number)  # to the workers, too
    printed = run.end(code)
    assert 'Stopped by a signal' in printed.splitlines()[-1]
    for words in ('Traceback', 'KeyboardInterrupt', 'error: '):
        assert words not in printed
    (file,) = (folder / 'run').glob('stop_*.pth')
    done = read_checkpoint(file)['meta']['iter']
    assert file.name == f'stop_iter_{done}.pth'


class Stuck:
    """Let the main thread wait where Python calls no handler."""

    def __call__(self):
        from simim_plugin.engine import ExactEpochLoop

        def run_iter(loop, *batch):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            print('stuck', flush=True)
            time.sleep(600)

        ExactEpochLoop.run_iter = run_iter


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(folder):
    run = Run(folder, *epochs(1000, *WORKERS), before=Stuck())
    run.wait_for('stuck')
    workers = run.workers()
    run.kill(signal.SIGINT)
    run.wait_for('a second Ctrl-C ends it at once')
    run.kill(signal.SIGINT)  # a launcher repeats the first
    time.sleep(1.2)
    assert run.process.is_alive()
    run.kill(signal.SIGINT)
    printed = run.end(130)
    assert 'Ended at once' in printed.splitlines()[-1]
    assert 'Traceback' not in printed
    for worker in workers:  # killed, at the latest now reaped
        end = time.monotonic() + 60
        while os.path.exists(f'/proc/{worker}'):
            assert time.monotonic() < end
            time.sleep(0.01)


class Waits:
    """Let an evaluation wait for the file 'go'."""

    def __init__(self, module, owner, method):
        self.place = module, owner, method

    def __call__(self):
        module, owner, name = self.place
        owner = getattr(importlib.import_module(module), owner)
        method = getattr(owner, name)

        def waiting(*args, **kwargs):
            print('evaluates', flush=True)
            while not os.path.exists('go'):
                time.sleep(0.01)
            return method(*args, **kwargs)

        setattr(owner, name, waiting)


CLASSES = """
_base_ = __import__('simim_plugin').config_path(
    'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py')
loader = dict(batch_size=6, num_workers=0, persistent_workers=False,
              dataset=dict(data_root='classes'))
train_dataloader = val_dataloader = test_dataloader = loader
model = dict(head=dict(num_classes=2),
             data_preprocessor=dict(num_classes=2))
work_dir = 'run'
"""
KNN = """
custom_hooks = _base_.custom_hooks + [
    dict(type='OnlineKNN', train='classes', val='classes', interval=1)]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 75)]
)
@pytest.mark.parametrize('kind', ['validation', 'online kNN'])
def test_a_signal_stops_after_an_evaluation(folder, kind, number, code):
    (folder / 'classes').mkdir()
    for name in ('a', 'b'):
        fill(folder / 'classes' / name, 3)
    if kind == 'validation':
        (folder / 'tiny.py').write_text(CLASSES)
        waits = Waits('mmengine.runner', 'ValLoop', 'run_iter')
        result = 'Epoch(val) [1]'
    else:
        (folder / 'tiny.py').write_text(TINY + KNN)
        online = 'simim_plugin.evaluation.online_knn'
        waits = Waits(online, 'OnlineKNN', 'after_train_epoch')
        result = 'kNN after epoch 1: '
    run = Run(folder, *epochs(5, 'param_scheduler.warmup=0'), before=waits)
    run.wait_for('evaluates')
    run.kill(number)
    (folder / 'go').touch()
    printed = run.end(code)
    assert result in printed
    assert 'Stopped by a signal' in printed.splitlines()[-1]
    assert 'Traceback' not in printed
    exact = kind == 'online kNN'  # mmengine's loop cannot stop in an epoch
    assert len([*(folder / 'run').glob('stop_*.pth')]) == exact
    assert ('the last checkpoint stands' in printed) != exact


@pytest.mark.parametrize(
    ('seconds', 'steps', 'again'),
    [(0.3, 1, 10), (0.6, 1, 8), (12, 10, 4), (60, 1, 1), (3, 10, 10)],
)
def test_processes_ask_each_other_for_signals_often_enough(
    seconds, steps, again
):
    """After at most ten steps, or five seconds."""
    assert _most_steps(seconds, steps) == again


def test_ignored_signals_stay_ignored():
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with record_stop_signals() as received:
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
                os.kill(os.getpid(), number)
        assert received == [signal.SIGUSR1, signal.SIGINT]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_after_a_stop_have_no_effect():
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, 15)}
    try:
        with pytest.raises(SystemExit), record_stop_signals():
            raise SystemExit(75)
        for number in handlers:
            os.kill(os.getpid(), number)
        with record_stop_signals() as received:  # of another run
            os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_other_threads_record_nothing():
    found = []

    def run():
        with record_stop_signals() as received:
            found.append(received)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [[]]


def test_ctrl_c_ends_any_command_in_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, 'import_module', interrupted)
    with pytest.raises(SystemExit) as ended:
        commands.run('train')
    assert ended.value.code == 130
    assert capsys.readouterr().err == '\nInterrupted.\n'


def test_other_errors_pass():
    with pytest.raises(KeyError), one_line_interrupt():
        raise KeyError('a')


NESTED = """
import os, sys, time
from pathlib import Path
from simim_plugin.commands.running import run_logged
from simim_plugin.errors import one_line_interrupt

with one_line_interrupt():
    if depth := int(sys.argv[1]):
        command = [sys.executable, __file__, str(depth - 1)]
        run_logged(command, Path(f'{depth}.log'))
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ('number', 'code'), [(signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize('everyone', [False, True], ids=['one', 'terminal'])
def test_a_signal_ends_all_nested_commands(tmp_path, number, code, everyone):
    script, log = tmp_path / 'nested.py', tmp_path / '1.log'
    script.write_text(NESTED)
    process = subprocess.Popen(
        [sys.executable, script, '2'],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),
    )
    while not (log.exists() and log.read_text()[-1:] == '\n'):
        assert process.poll() is None
        time.sleep(0.02)
    (os.killpg if everyone else os.kill)(process.pid, number)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == code
    assert printed == ('\nInterrupted.\n' if number == signal.SIGINT else '')
    status = Path(f'/proc/{log.read_text().split()[0]}/stat')
    # Nobody may be there to reap an orphan.
    assert not status.exists() or ') Z ' in status.read_text()
