"""A long command tells how far it is, and ends in the sentence it gave."""

import os
import signal
import subprocess
import sys
import time

import pytest

from simim_plugin.commands.running import _news, run_logged
from simim_plugin.errors import SimimError


def test_unforeseen_failure_shows_the_end_of_the_log(tmp_path, capsys):
    script = 'print("first"); raise RuntimeError("tell me")'
    with pytest.raises(SimimError, match=r'exit code 1; .*run\.log'):
        run_logged([sys.executable, '-c', script], tmp_path / 'run.log')
    assert 'RuntimeError: tell me' in capsys.readouterr().err
    assert (tmp_path / 'run.log').read_text().startswith('first')


def test_progress_is_told_while_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('simim_plugin.commands.running.QUIET_SECONDS', 0.5)
    script = (
        'import time; time.sleep(1.5); print("x - mmengine - INFO - '
        'Epoch(train)   [2][ 5/39]  lr: 1.0e-03  eta: 0:01:33  time: 0.2  '
        'loss: 1.25  negative_term: 7.5", flush=True); time.sleep(1.5)'
    )
    run_logged([sys.executable, '-c', script], tmp_path / 'run.log')
    lines = capsys.readouterr().out.splitlines()[2:]
    assert 'starting' in lines[0]
    assert lines[-1].endswith('s  train [2][ 5/39]  loss 1.25  0:01:33 left')


def test_progress_of_what_a_command_runs_is_passed_on():
    assert _news('   105 s  train [2][ 5/39]  0:01:33 left') == (
        'train [2][ 5/39]  0:01:33 left'
    )


NESTED = """
import os, sys, time
from pathlib import Path
from simim_plugin.commands.running import run_logged

if depth := int(sys.argv[1]):
    command = [sys.executable, __file__, str(depth - 1)]
    run_logged(command, Path(f'{depth}.log'))
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_what_is_stopped_stops_all_that_it_runs(tmp_path):
    """A command that runs another that runs a third, as ablations do."""
    script, log = tmp_path / 'nested.py', tmp_path / '1.log'
    script.write_text(NESTED)
    process = subprocess.Popen([sys.executable, script, '2'], cwd=tmp_path)
    while not (log.exists() and log.read_text()[-1:] == '\n'):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.wait(30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_other_handlers_are_back_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run_logged([sys.executable, '-c', ''], tmp_path / 'run.log')
    assert signal.getsignal(signal.SIGTERM) is before


def test_long_runs_are_understood():
    line = (
        'mmengine - INFO - Iter(train) [ 10/900000]  lr: 1e-3  eta: 2 days, '
        '3:04:05  time: 0.2  loss: 1.5e-01'
    )
    assert _news(line) == (
        'train [ 10/900000]  loss 1.5e-01  2 days, 3:04:05 left'
    )
    line = 'INFO - Epoch(test) [ 50/79]    eta: 0:00:29  time: 1.0'
    assert _news(line) == 'test [ 50/79]  0:00:29 left'
    assert _news('Exp name: run_2026') is None
    line = '\rfeatures: batch 12 of 79, 00:31 left'
    assert _news(line) == 'features: batch 12 of 79, 00:31 left'
