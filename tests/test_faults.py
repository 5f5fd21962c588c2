"""Cause faults on purpose: kills, signals, full disks, broken files.

``SIMIM_KILLS=20 pytest -s tests/test_faults.py -k kills`` kills more often.
"""

import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from multiprocessing.connection import Listener, Pipe
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from simim_plugin.checkpoint import read_checkpoint
from simim_plugin.datasets import ImageFolder, UnreadableImageError
from simim_plugin.errors import SimimError
from simim_plugin.runs.faults import explain_lost_processes

from .test_engine.test_resume import STATE, same
from .training_processes import TINY, Run, end_all, free_port, two

ROOT = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get('SIMIM_KILLS', 3))
STOPPED = 75
FIRST_STEP = 'Epoch(train) '
INTERVAL = 5

pytestmark = pytest.mark.slow


def epochs(count, *more):
    return ['--cfg-options', f'train_cfg.max_epochs={count}', *more]


@pytest.fixture
def folder(tmp_path):
    """Write a config and 24 images: 6 steps an epoch."""
    (tmp_path / 'tiny.py').write_text(TINY)
    fill(tmp_path / 'images', 24)
    yield tmp_path
    end_all()


def fill(folder, count):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for k in range(count):
        pixels = generator.integers(0, 256, (6, 6, 3), np.uint8)
        file = str(folder / f'{k:03}.png')
        cv2.imwrite(file, cv2.resize(pixels, (40, 40)))


def steps(folder) -> list[tuple[int, float]]:
    """Return step and loss of every line logged below ``folder``."""
    lines = []
    for file in sorted(Path(folder).glob('*/vis_data/scalars.json')):
        for text in file.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # the line that a kill cut off
                continue
            lines.append((line['step'], line['loss']))
    return lines


def assert_same_end(folder, one, other, step):
    a, b = (
        read_checkpoint(folder / run / f'iter_{step}.pth')
        for run in (one, other)
    )
    for key in STATE:
        assert same(a[key], b[key]), key


# Kill, stop, resume


class KillInWrite:
    """Die with half of the n-th checkpoint written."""

    def __init__(self, writes):
        self.writes = writes

    def __call__(self):
        from mmengine.fileio import LocalBackend

        whole = LocalBackend.put

        def put(backend, content, path):
            self.writes -= 1
            if self.writes:
                return whole(backend, content, path)
            Path(path).write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        LocalBackend.put = put


def test_kills_at_random_moments(folder):
    """After a kill at any moment, the run resumes and ends the same."""
    rng = random.Random(KILLS)
    length = 6 * KILLS + 12
    options = epochs(length // 6)
    Run(folder, '--work-dir', 'whole', *options).end()
    expected = dict(steps(folder / 'whole'))
    lost, reached, in_writes, started = [], 0, 0, time.time()
    for kill in range(KILLS + 1):
        in_write = kill % 3 == 1
        before = KillInWrite(rng.randint(1, 2)) if in_write else None
        run = Run(folder, '--resume', *options, before=before)
        if kill == KILLS:
            printed = run.end()
        elif in_write:
            run.end(-signal.SIGKILL)
            assert list(folder.glob('run/*.part'))
            in_writes += 1
        else:
            goal = reached + rng.randint(1, 9)
            while max(dict(steps(folder / 'run')), default=0) < goal:
                assert run.process.is_alive(), run.printed[-3000:]
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.05))
            run.kill()
            run.end(-signal.SIGKILL)
        printed = run.printed
        _, found, words = printed.partition('resumed epoch: ')
        first = int(words.split()[2]) if found else 0
        assert first >= reached - INTERVAL
        lost.append(reached - first)
        reached = max(dict(steps(folder / 'run')))
    assert reached == length
    assert all(expected[step] == loss for step, loss in steps(folder / 'run'))
    assert_same_end(folder, 'whole', 'run', length)
    print(
        f'{KILLS} kills, {in_writes} of them in a checkpoint write, '
        f'{time.time() - started:.0f} s: steps run again after each '
        f'{lost[1:]}, of at most {INTERVAL}'
    )


def test_a_signal_to_all_processes_stops_after_the_step(folder):
    options = epochs(
        4,
        'train_dataloader.num_workers=2',
        'train_dataloader.persistent_workers=True',
        'optim_wrapper.accumulative_counts=3',
        'default_hooks.checkpoint.interval=24',
    )
    run = Run(folder, *options)
    run.wait_for(FIRST_STEP)
    run.kill(signal.SIGTERM)  # workers too, as from SLURM and torchrun
    assert 'Stopped by a signal' in run.end(STOPPED)
    (file,) = (folder / 'run').glob('*.pth')
    done = read_checkpoint(file)['meta']['iter']
    assert file.name == f'stop_iter_{done}.pth'
    assert done % 3 == 0
    assert done < 24
    assert f'iter: {done}' in Run(folder, '--resume', *options).end()
    assert [path.name for path in (folder / 'run').glob('*.pth')] == [
        'iter_24.pth'
    ]
    Run(folder, '--work-dir', 'whole', *options).end()
    assert_same_end(folder, 'whole', 'run', 24)


def test_a_run_on_an_archive_resumes_exactly(folder):
    """In mid-epoch, from the pictures of a .zip file."""
    file = shutil.make_archive(folder / 'set', 'zip', folder / 'images')
    options = epochs(
        3,
        f'train_dataloader.dataset.data_root={file}',
        'default_hooks.checkpoint.interval=18',
    )
    run = Run(folder, *options)
    run.wait_for(FIRST_STEP)
    run.kill(signal.SIGTERM)
    assert f'images (24 .png) in {file}' in run.end(STOPPED)
    assert [*(folder / 'run').glob('stop_iter_*.pth')]
    assert 'resumed epoch: ' in Run(folder, '--resume', *options).end()
    Run(folder, '--work-dir', 'whole', *options).end()
    assert_same_end(folder, 'whole', 'run', 18)


class SignalInStep:
    """Send a signal to the second process during a step."""

    def __init__(self, step):
        self.step = step

    def __call__(self):
        from simim_plugin.engine import ExactEpochLoop

        whole = ExactEpochLoop.run_iter

        def run_iter(loop, *batch):
            if loop.iter + 1 == self.step and os.environ['RANK'] == '1':
                os.kill(os.getpid(), signal.SIGUSR1)
            whole(loop, *batch)

        ExactEpochLoop.run_iter = run_iter


def test_a_signal_to_one_of_two_processes_stops_both(folder):
    options = epochs(8)
    sent = 8  # of epochs of 3 steps, with a checkpoint after 5
    for run in two(folder, *options, before=SignalInStep(sent)):
        run.end(STOPPED)
    (file,) = (folder / 'run').glob('stop_*.pth')
    done = int(file.stem.rpartition('_')[2])
    assert sent <= done < sent + 10  # they ask each other every tenth step
    assert read_checkpoint(file)['meta']['iter'] == done
    runs = two(folder, '--resume', *options)
    for run in runs:
        assert f'iter: {done}' in run.end() or run is runs[1]
    for run in two(folder, '--work-dir', 'whole', *options):
        run.end()
    assert_same_end(folder, 'whole', 'run', 24)


# Kill other processes that a run needs


def test_one_of_two_processes_is_killed(folder):
    runs = two(folder, *epochs(1000))
    runs[0].wait_for(FIRST_STEP)
    runs[1].kill()
    printed = runs[0].end(1, seconds=30)
    assert 'error: Another process of the run has ended' in printed
    assert '--resume' in printed


def test_a_worker_is_killed(folder):
    run = Run(
        folder,
        *epochs(
            1000,
            'train_dataloader.num_workers=2',
            'train_dataloader.persistent_workers=True',
        ),
    )
    run.wait_for(FIRST_STEP)
    os.kill(run.workers()[-1], signal.SIGKILL)
    printed = run.end(1, seconds=60)
    assert 'error: A worker that loads data' in printed, printed[-3000:]
    assert 'num_workers' in printed


def break_a_socket(tmp_path):
    """Raise the error of fetching a batch from a worker that dies."""
    listener = Listener(str(tmp_path / 'socket'), authkey=b'key')
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.address)
    client.close()
    listener.accept()


@pytest.mark.parametrize('thread', [False, True], ids=['', 'pinned'])
def test_a_worker_that_dies_while_it_hands_over_a_batch(tmp_path, thread):
    """Its socket breaks before torch notices that it is dead."""
    with (
        pytest.raises(SimimError, match='A worker that loads'),
        explain_lost_processes(),
    ):
        try:
            break_a_socket(tmp_path)
        except (ConnectionError, EOFError):
            if not thread:
                raise
            ExceptionWrapper(where='in a thread').reraise()


def test_a_worker_that_dies_within_a_message():
    ours, theirs = Pipe()
    os.write(theirs.fileno(), struct.pack('!i', 100) + b'half')
    theirs.close()
    with (
        pytest.raises(SimimError, match='A worker that loads'),
        explain_lost_processes(),
    ):
        ours.recv_bytes()


def test_torch_notices_the_dead_worker_a_moment_later(tmp_path):
    """Its SIGCHLD handler raises while the broken socket is handled."""

    def notice(*_):
        raise RuntimeError('DataLoader worker (pid 7) is killed by signal')

    before = signal.signal(signal.SIGALRM, notice)
    try:
        with (
            pytest.raises(SimimError, match=r'process 7\) was'),
            explain_lost_processes(),
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            break_a_socket(tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_torchs_error_as_the_cause_of_another():
    with (
        pytest.raises(SimimError, match=r'process 7\) was'),
        explain_lost_processes(),
    ):
        try:
            raise RuntimeError('DataLoader worker (pid 7) is killed by signal')
        except RuntimeError as error:
            raise TypeError('unsupported callable') from error


def test_other_broken_connections_are_not_a_workers():
    with pytest.raises(ConnectionResetError), explain_lost_processes():
        raise ConnectionResetError('of a file server')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_time_out_of_one_process_is_no_other_process(workers):
    class Slow:
        def __getitem__(self, k):
            if not workers:
                raise RuntimeError('the read of a.jpg timed out')
            time.sleep(2)

    loader = DataLoader(
        Slow(), sampler=[0], num_workers=workers, timeout=workers
    )
    words = r'train_dataloader\.timeout \(1 s' if workers else r'^the read of'
    with (
        pytest.raises(Exception, match=words) as caught,
        explain_lost_processes(),
    ):
        list(loader)
    assert isinstance(caught.value, SimimError) is bool(workers)


class Quota:
    """Limit the size of files, if no disk can be mounted."""

    def __init__(self, size):
        self.size = size

    def __call__(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


def test_the_disk_is_full(folder):
    disk = folder / 'disk'
    disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=16m', 'none', str(disk)]
    mounted = os.geteuid() == 0 and not subprocess.call(mount)
    try:
        options = ['--work-dir', disk / 'run', '--resume']
        Run(folder, *options, *epochs(1)).end()
        good = disk / 'run' / 'iter_6.pth'
        content = good.read_bytes()
        before = None
        if mounted:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
            rest = len(content) // 2
            (disk / 'others').write_bytes(bytes(free - rest))
        else:
            before = Quota(len(content) // 2)
        options.append('--extend')
        printed = Run(folder, *options, *epochs(2), before=before).end(1)
        error = printed.partition('\nerror: ')[2]
        assert 'The disk is full while writing to ' in error
        assert '/run/iter_10.pth; free some space' in error
        assert 'Traceback' not in printed
        assert good.read_bytes() == content
        assert [path.name for path in good.parent.glob('*.pth*')] == [
            good.name
        ]
        (disk / 'others').unlink(missing_ok=True)
        Run(folder, *options, *epochs(2)).end()
    finally:
        if mounted:
            subprocess.check_call(['umount', str(disk)])


# Files that are no images


def bomb(side: int) -> bytes:
    """Return a black PNG of few bytes and side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return (
            struct.pack('>I', len(data))
            + kind
            + data
            + struct.pack('>I', check)
        )

    header = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', rows)
        + chunk(b'IEND', b'')
    )


def test_files_that_cannot_be_read_are_named(tmp_path):
    fill(tmp_path / 'images', 3)
    files = sorted((tmp_path / 'images').iterdir())
    dataset = ImageFolder(
        str(tmp_path / 'images'), pipeline=[dict(type='LoadRGBImage')]
    )
    files[0].unlink()  # after it was listed
    files[1].write_bytes(files[1].read_bytes()[:200])
    files[2].write_bytes(bomb(20000))
    for k, reason in enumerate(('No such file', 'truncated', 'bomb')):
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            dataset[k]
        assert str(files[k]) in str(caught.value)


def test_the_extension_matters_only_for_listing(tmp_path):
    fill(tmp_path / 'images', 3)
    files = sorted((tmp_path / 'images').iterdir())
    files[0].rename(files[0].with_suffix('.jpg'))  # a PNG inside
    files[1].rename(files[1].with_suffix('.txt'))
    files[2].write_text('words')
    dataset = ImageFolder(
        str(tmp_path / 'images'), pipeline=[dict(type='LoadRGBImage')]
    )
    assert len(dataset) == 2
    assert dataset[0]['img'].shape == (40, 40, 3)
    with pytest.raises(UnreadableImageError, match=r'002\.png'):
        dataset[1]


def test_one_in_a_hundred_files_is_broken(folder):
    images = folder / 'images'
    for file in images.iterdir():
        file.unlink()
    images.rmdir()
    fill(images, 200)
    for k in (50, 150):
        (images / f'{k:03}.png').write_bytes(b'')
    options = epochs(
        1,
        'train_dataloader.batch_size=50',
        'train_dataloader.num_workers=2',
        'train_dataloader.dataset.skip_broken=0.01',
    )
    printed = Run(folder, *options).end()
    assert 'Skipped broken image 2 of 200' in printed
    (images / '100.png').write_bytes(b'')
    printed = Run(folder, '--work-dir', 'more', *options).end(1)
    assert 'error: 3 of the 200 images' in printed
    assert 'skip_broken=0.01' in printed


def test_processes_count_broken_files_together(folder):
    for k in range(4):
        (folder / 'images' / f'{k:03}.png').write_bytes(b'')
    options = epochs(2, 'train_dataloader.dataset.skip_broken=0.15')
    for run in two(folder, *options):
        assert 'error: 4 of the 24 images' in run.end(1)
    # Neither process alone exceeds the share within one epoch.
    assert max(dict(steps(folder / 'run'))) == 3


# The scripts


@pytest.fixture
def script(tmp_path):
    """Run a script of tools/ with stand-ins for the programs it calls."""

    def run(name, *words, stand_ins, **environment):
        folder = tmp_path / 'bin'
        folder.mkdir(exist_ok=True)
        for program, text in stand_ins.items():
            (folder / program).write_text(f'#!/usr/bin/env bash\n{text}\n')
            (folder / program).chmod(0o755)
        path = f'{folder}{os.pathsep}{os.environ["PATH"]}'
        return subprocess.run(
            [ROOT / 'tools' / name, *words],
            cwd=tmp_path,
            env=dict(os.environ, PATH=path, **environment),
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.mark.parametrize('code', [0, 1, 75])
def test_slurm_requeues_a_stopped_run(script, code):
    stand_ins = dict(
        srun=f'echo "$@"; exit {code}', scontrol='echo scontrol "$@"'
    )
    own = ('--resume', 'epoch_40.pth', '--restart-epoch', '--amp')
    words = ('partition', 'name', 'config.py', *own)
    done = script(
        'slurm_train.sh', *words, stand_ins=stand_ins, SLURM_JOB_ID='7'
    )
    assert done.returncode == code
    assert ('scontrol requeue 7' in done.stdout) is (code == 75)
    assert ' '.join(['--launcher slurm', *own]) in done.stdout
    done = script(
        'slurm_train.sh', *words, stand_ins=stand_ins, SLURM_RESTART_COUNT='1'
    )
    # The last --resume takes effect.
    assert 'slurm --resume epoch_40.pth --amp --resume\n' in done.stdout
    assert 'scontrol' not in done.stdout  # no batch job to queue


@pytest.mark.parametrize(
    ('restarts', 'codes', 'starts'),
    [(0, '75', 1), (2, '75 0', 2), (2, '75 75 75', 3), (2, '1', 1)],
)
def test_dist_train_restarts_at_most_as_often_as_allowed(
    script, restarts, codes, starts
):
    # The n-th call of python exits with the n-th code.
    python = (
        'echo "$@"; echo >> calls; '
        f'codes=({codes}); exit "${{codes[$(wc -l < calls) - 1]}}"'
    )
    done = script(
        'dist_train.sh',
        *('config.py', '2', '--resume', 'a.pth', '--restart-epoch'),
        stand_ins=dict(python=python),
        RESTARTS=str(restarts),
    )
    assert done.returncode == int(codes.split()[-1])
    lines = done.stdout.splitlines()
    assert len(lines) == starts
    for k, line in enumerate(lines):
        given, more = line.split('--launcher pytorch --resume a.pth ')
        assert 'config.py' in given
        assert more == ' '.join(['--resume'] * k or ['--restart-epoch'])


@pytest.mark.parametrize(
    ('number', 'send', 'code'),
    [(signal.SIGUSR1, os.kill, 75), (signal.SIGINT, os.killpg, 130)],
    ids=['scheduler', 'ctrl-c'],
)
def test_dist_train_passes_signals_and_the_exit_code_on(
    tmp_path, number, send, code
):
    for name in ('dist_train.sh', 'launch.py'):
        shutil.copy(ROOT / 'tools' / name, tmp_path)
    (tmp_path / 'train.py').write_text(
        'import os, signal, sys, time\n'
        'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
        'signal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n'
        "open('ready_' + os.environ['RANK'], 'a').write('x')\n"
        'time.sleep(60)\n'
    )
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    restarts = '2' if number == signal.SIGINT else '0'
    run = subprocess.Popen(
        ['bash', 'dist_train.sh', 'config.py', '2'],
        cwd=tmp_path,
        env=dict(
            os.environ, PATH=path, PORT=str(free_port()), RESTARTS=restarts
        ),
        start_new_session=True,
    )
    while len(list(tmp_path.glob('ready_*'))) < 2:
        assert run.poll() is None
        time.sleep(0.01)
    send(run.pid, number)
    assert run.wait(60) == code
    assert (tmp_path / 'ready_0').read_text() == 'x'
