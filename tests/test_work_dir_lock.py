"""Two training runs never share a work directory."""

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from simim_plugin.errors import SimimError
from simim_plugin.runs import lock
from simim_plugin.runs.lock import NAME, WorkDirLock, is_held

from .test_faults import FIRST_STEP, epochs, fill
from .training_processes import CONTEXT, TINY, Run, end_all, two


def hold(folder, pipe):
    """Try to take the lock, report, and wait to be killed."""
    try:
        WorkDirLock(folder).acquire()
    except SimimError as error:
        pipe.send(str(error))
    else:
        pipe.send('')
    time.sleep(600)


@pytest.fixture
def start(tmp_path):
    """Start processes that try to take the lock."""
    started = []

    def begin():
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=hold, args=(tmp_path, theirs))
        process.start()
        started.append(process)
        return process, ours

    yield begin
    for process in started:
        process.kill()
        process.join()


def owner(folder) -> dict:
    return json.loads((folder / NAME).read_text())


def elsewhere(folder) -> Path:
    """Leave the lock of a run on another machine."""
    one = dict(WorkDirLock(folder).owner, host='other', machine='other', pid=7)
    (folder / NAME).write_text(json.dumps(one))
    return folder / NAME


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(lock, 'BEAT', 0.02)
    monkeypatch.setattr(lock, 'SILENCE', 0.4)


def test_a_second_run_waits_for_the_end_of_the_first(start, tmp_path):
    process, pipe = start()
    assert pipe.recv() == ''
    assert is_held(tmp_path)
    with pytest.raises(SimimError) as caught:
        WorkDirLock(tmp_path).acquire()
    message = str(caught.value)
    assert f'process {process.pid} on {socket.gethostname()}' in message
    assert str(tmp_path) in message
    assert 'choose another --work-dir' in message
    os.kill(process.pid, signal.SIGSTOP)  # not dead
    with pytest.raises(SimimError):
        WorkDirLock(tmp_path).acquire()


def test_a_killed_run_leaves_nothing_to_wait_for(start, tmp_path):
    process, pipe = start()
    pipe.recv()
    process.kill()
    process.join()
    assert (tmp_path / NAME).exists()
    assert not is_held(tmp_path)
    mine = WorkDirLock(tmp_path)
    mine.acquire()
    assert owner(tmp_path) == mine.owner
    mine.release()
    assert not list(tmp_path.iterdir())


def test_one_of_many_takes_over_from_a_dead_run(start, tmp_path):
    for _ in range(3):
        process, pipe = start()
        assert pipe.recv() == ''
        process.kill()
        process.join()
        several = [start() for _ in range(6)]
        answers = [pipe.recv() for _, pipe in several]
        assert answers.count('') == 1
        (winner,) = (
            process.pid
            for (process, _), answer in zip(several, answers, strict=True)
            if not answer
        )
        assert all(f'process {winner} ' in words for words in answers if words)
        for process, _ in several:
            process.kill()
            process.join()


def test_the_number_of_a_dead_process_is_used_again(tmp_path):
    one = dict(WorkDirLock(tmp_path).owner, start='1')
    (tmp_path / NAME).write_text(json.dumps(one))
    assert not is_held(tmp_path)
    mine = WorkDirLock(tmp_path)
    mine.acquire()
    mine.release()


def test_a_run_elsewhere_lives_while_it_gives_signs(tmp_path, short):
    file, over = elsewhere(tmp_path), threading.Event()

    def beat():
        while not over.wait(0.02):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert is_held(tmp_path)
        with pytest.raises(SimimError, match='process 7 on other'):
            WorkDirLock(tmp_path).acquire()
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize('old', [False, True], ids=['waited', 'old'])
def test_a_run_elsewhere_that_gives_no_signs_is_dead(tmp_path, short, old):
    file = elsewhere(tmp_path)
    if old:
        os.utime(file, (0, 0))
    mine = WorkDirLock(tmp_path)
    mine.acquire()
    assert owner(tmp_path) == mine.owner
    mine.release()


def test_a_clock_that_is_ahead_delays_nothing_for_ever(tmp_path, short):
    file = elsewhere(tmp_path)
    os.utime(file, (time.time() + 9e5,) * 2)
    mine = WorkDirLock(tmp_path)
    mine.acquire()
    assert owner(tmp_path) == mine.owner
    mine.release()


@pytest.mark.parametrize(
    'text',
    ['', 'null', '[]', '{"pid": "x"}', '[' * 9999, '{"host": "\\u001b[1m"}'],
)
def test_a_broken_lock_holds_for_the_time_of_silence(tmp_path, short, text):
    file = tmp_path / NAME
    file.write_text(text)
    start = file.stat().st_mtime  # the file system's clock is coarse
    mine = WorkDirLock(tmp_path)
    mine.acquire()
    assert time.time() - start >= lock.SILENCE
    assert owner(tmp_path) == mine.owner
    mine.release()


@pytest.mark.parametrize('pid', [0, -1, 2**70, 'x', None])
def test_no_process_has_such_a_number(tmp_path, pid):
    one = dict(WorkDirLock(tmp_path).owner, pid=pid)
    (tmp_path / NAME).write_text(json.dumps(one))
    assert not is_held(tmp_path)


def test_escape_codes_of_a_lock_are_not_printed(tmp_path, monkeypatch):
    one = dict(WorkDirLock(tmp_path).owner, host='a\x1b[1m\nerror: b')
    (tmp_path / NAME).write_text(json.dumps(one))
    with pytest.raises(SimimError) as caught:
        WorkDirLock(tmp_path).acquire()
    assert str(caught.value).isprintable()


def wait_until(true):
    end = time.monotonic() + 240
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_overtaken_run_finds_out_and_leaves_the_lock(tmp_path, short):
    mine = WorkDirLock(tmp_path)
    mine.acquire()
    mine.check()
    elsewhere(tmp_path)

    def overtaken():
        try:
            mine.check()
        except SimimError as error:
            assert 'process 7 on other' in str(error)
            return True

    wait_until(overtaken)
    mine.release()
    assert owner(tmp_path)['pid'] == 7


def test_signs_of_life_restore_a_lock_that_was_removed(tmp_path, short):
    mine = WorkDirLock(tmp_path)
    mine.acquire()
    os.utime(tmp_path / NAME, (0, 0))
    wait_until(lambda: (tmp_path / NAME).stat().st_mtime > 0)
    (tmp_path / NAME).unlink()
    wait_until(lambda: (tmp_path / NAME).exists())
    mine.release()
    assert not (tmp_path / NAME).exists()


def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(lock.json, 'dump', full)
    with pytest.raises(OSError, match='No space'):
        WorkDirLock(tmp_path).acquire()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_refuses_a_second_run_in_all_processes(tmp_path):
    (tmp_path / 'tiny.py').write_text(TINY)
    fill(tmp_path / 'images', 24)
    try:
        first = Run(tmp_path, *epochs(1000))
        first.wait_for(FIRST_STEP)
        config = (tmp_path / 'run/config.py').read_text()
        for run in (
            Run(tmp_path, *epochs(7)),
            *two(tmp_path, '--resume', *epochs(7)),
        ):
            printed = run.end(1)
            assert 'error: Another run trains in' in printed
            assert f'process {first.process.pid} on' in printed
            assert 'Traceback' not in printed
        assert (tmp_path / 'run/config.py').read_text() == config
        first.kill(signal.SIGINT)
        first.end(130)
        assert not (tmp_path / 'run' / NAME).exists()
    finally:
        end_all()
