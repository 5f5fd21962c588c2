"""Logged commands print their progress, and fail with their own sentence."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simim_plugin.commands.running import (
    progress,
    run_logged,
    run_script,
    train_on,
)
from simim_plugin.errors import SimimError
from simim_plugin.text import ESTIMATE


def test_unforeseen_failure_shows_the_end_of_the_log(tmp_path, capsys):
    script = 'print("first"); raise RuntimeError("the cause")'
    with pytest.raises(SimimError, match=r'exit code 1; .*run\.log'):
        run_logged([sys.executable, '-c', script], tmp_path / 'run.log')
    assert 'RuntimeError: the cause' in capsys.readouterr().err
    assert (tmp_path / 'run.log').read_text().startswith('first')


def test_progress_is_printed_while_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('simim_plugin.commands.running.QUIET_SECONDS', 0.1)
    script = (
        'import time; time.sleep(0.5); print("x - mmengine - INFO - '
        'Epoch(train)   [2][ 5/39]  lr: 1.0e-03  eta: 0:01:33  time: 0.2  '
        'loss: 1.25  negative_term: 7.5", flush=True); time.sleep(0.5)'
    )
    run_logged([sys.executable, '-c', script], tmp_path / 'run.log')
    lines = capsys.readouterr().out.splitlines()[2:]
    assert 'starting' in lines[0]
    assert re.fullmatch(
        r'  +\d s  Epoch\(train\)  \[2\]\[ 5/39\]  eta: 0:01:33  '
        r'loss: 1.25',
        lines[-1],
    )


@pytest.mark.parametrize(
    'prefix',
    ['', '11/28 18:00:00 - mmengine - \x1b[4mINFO\x1b[0m - ', '   7 s  '],
)
@pytest.mark.parametrize(
    ('message', 'kept'),
    [
        (
            'Iter(train) [ 10/90]  lr: 1e-3  eta: 2 days, 3:04:05  loss: 1.5',
            'Iter(train) [ 10/90]  eta: 2 days, 3:04:05  loss: 1.5',
        ),
        (
            'Epoch(test) [ 50/79]    eta: 0:00:29  time: 1.0',
            'Epoch(test) [ 50/79]  eta: 0:00:29',
        ),
        ('features: batch 12 of 79, 00:31 left',) * 2,
        (f'{ESTIMATE} 2.3 s, the other 595 about 22 minutes without',) * 2,
    ],
)
def test_lines_with_a_time_left_are_progress(prefix, message, kept):
    assert progress(prefix + message) == kept
    assert progress('\r' + prefix + message) == kept
    assert progress(prefix + kept) == kept


@pytest.mark.parametrize(
    'line', ['Exp name: run_2026', '    10 s  starting', '']
)
def test_other_lines_are_not_progress(line):
    assert progress(line) == ''


def test_several_gpus_start_torchrun(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(
        'simim_plugin.commands.running.run_logged',
        lambda command, log: commands.append(command),
    )
    script, log = tmp_path / 'train.py', tmp_path / 'log'
    one = run_script(script, ['--cfg-options', 'a=1'], log)
    two = run_script(script, ['--cfg-options', 'a=1'], log, gpus=2)
    assert commands == [one, two]
    assert one == [sys.executable, '-u', str(script), '--cfg-options', 'a=1']
    assert two[2:] == [
        *('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'),
        *(str(script), '--cfg-options', 'a=1', '--launcher', 'pytorch'),
    ]


@pytest.mark.parametrize(
    ('output', 'expected'),
    [
        (
            'a: 1 -> 2 would change the course of the run of run/b.pth; set '
            'the same as before, or add --accept-changes to go on with the '
            'new settings.',
            'The training in run cannot go on: a: 1 -> 2 would change the '
            'course of the run of run/b.pth; remove that folder to train '
            'anew, or choose another --work-dir.',
        ),
        ('Too few images; add some.', 'Too few images; add some.'),
    ],
    ids=['changed', 'other'],
)
def test_an_option_that_a_command_lacks_is_not_advised(
    tmp_path, monkeypatch, output, expected
):
    (tmp_path / 'train.py').write_text(
        f'import sys; print(sys.argv[1:]); sys.exit("error: " + {output!r})'
    )
    monkeypatch.chdir(tmp_path)
    log = tmp_path / 'log'
    with pytest.raises(SimimError) as error:
        train_on(tmp_path, ['a.py', '--cfg-options'], Path('run'), log)
    assert str(error.value) == expected
    words = ['a.py', '--work-dir', 'run', '--resume', '--cfg-options']
    assert log.read_text().startswith(str(words))


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


def test_sigterm_stops_all_nested_commands(tmp_path):
    """Three levels, as in tools/ablate.py."""
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


def test_the_signal_handler_is_restored(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run_logged([sys.executable, '-c', ''], tmp_path / 'run.log')
    assert signal.getsignal(signal.SIGTERM) is before
