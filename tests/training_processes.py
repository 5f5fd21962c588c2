"""Run commands in child processes without their seconds of imports.

A fork server imports the libraries once and forks a process for each run, so
a run starts at once. Tests can kill it.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import torch
from torch.multiprocessing import start_processes

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(
    ['simim_plugin.commands.train', 'simim_plugin.pretraining']
)
TOOLS = Path(__file__).resolve().parents[1] / 'tools'

DEMO = 'siamese_im_vit-micro-p8_demo.py'

TINY = """
_base_ = __import__('simim_plugin').config_path(
    'siamese_im_vit-micro-p8_demo.py')
grid = (4, 4)
model = dict(
    backbone=dict(
        arch=dict(embed_dims=24, num_layers=1, num_heads=2,
                  feedforward_channels=48), img_size=32),
    projector=dict(in_dims=24, embed_dims=16, num_heads=2),
    neck=dict(grid=grid, embed_dims=16, depth=1, num_heads=2))
train_pipeline = [
    _base_.load,
    dict(type='PairedViews', size=32, crop_scale=(0.2, 1.0),
         online=_base_.colour, target=_base_.colour),
    dict(type='BlockwiseMask', grid=grid, num_masked=9, min_block=3),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='images', pipeline=train_pipeline))
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch=False, interval=5, max_keep_ckpts=1))
log_processor = dict(window_size=1)
work_dir = 'run'
"""
"""Config of a run on small images in ``images``, to be saved as tiny.py."""


class Run:
    """The training command in a process and a session of its own.

    Args:
        folder (Path): its current folder, which also gets its output.
        *options (str): command-line options.
        config (str): config file or packaged name.
        before (Callable, optional): called first in the process.
        **environment (str): added environment variables.
    """

    started: ClassVar[list['Run']] = []

    def __init__(
        self,
        folder,
        *options,
        config='tiny.py',
        before=None,
        **environment,
    ):
        self.log = Path(folder, f'printed_{len(self.started)}.txt')
        self.started.append(self)
        self.process = CONTEXT.Process(
            target=_train,
            args=(folder, self.log, [config, *options], before, environment),
        )
        self.process.start()

    @property
    def printed(self) -> str:
        return self.log.read_text() if self.log.exists() else ''

    def wait_for(self, words: str, seconds: float = 300) -> None:
        """Wait until the run has printed some words."""
        end = time.monotonic() + seconds
        while words not in self.printed:
            assert self.process.is_alive(), self.printed[-3000:]
            assert time.monotonic() < end, self.printed[-3000:]
            time.sleep(0.005)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and its children."""
        os.killpg(self.process.pid, number)

    def workers(self) -> list[int]:
        """Return the processes that the run has started."""
        pid = self.process.pid
        path = Path(f'/proc/{pid}/task/{pid}/children')
        return [int(child) for child in path.read_text().split()]

    def end(self, code: int = 0, seconds: float = 180) -> str:
        """Wait for its end with an exit code, and return its output."""
        self.process.join(seconds)
        assert self.process.exitcode == code, self.printed[-3000:]
        return self.printed


def short(images, *more) -> list[str]:
    """Return options for an epoch of batches of 4 of some images."""
    return [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={images}',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1',
        *more,
    ]


def end_all() -> None:
    """Kill the runs that a test has left running."""
    for run in Run.started:
        if run.process.is_alive():
            run.kill()
            run.process.join()


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def two(folder, *options, **environment) -> list[Run]:
    """Start a run of two processes."""
    port = free_port()
    return [
        Run(
            folder,
            '--launcher',
            'pytorch',
            *options,
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
            WORLD_SIZE='2',
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            **environment,
        )
        for rank in (0, 1)
    ]


def in_two(function, *arguments) -> list:
    """Call a function in two processes of a group; return what both return.

    Args:
        function (Callable): of a module. It asks ``get_rank()`` where it is.
        *arguments: for the function.
    """
    with tempfile.TemporaryDirectory() as folder:
        start_processes(
            _in_group,
            (free_port(), folder, function, arguments),
            2,
            start_method='forkserver',
        )
        return [
            torch.load(Path(folder, f'{rank}.pth'), weights_only=False)
            for rank in (0, 1)
        ]


def run_tool(
    name: str, *words, cwd: Path, seconds: float = 900, context=CONTEXT
) -> subprocess.CompletedProcess:
    """Run a script of ``tools`` in a process of its own, as Python does.

    The scripts that it starts in turn are forked as well. The context 'fork'
    has all that the test has imported.
    """
    command = [str(word) for word in (TOOLS / name, *words)]
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, stream) for stream in ('out', 'err')]
        process = context.Process(
            target=_run_script, args=(command, cwd, files)
        )
        process.start()
        process.join(seconds)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        texts = [Path(file).read_text(errors='replace') for file in files]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _in_group(rank, port, folder, function, arguments):
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    torch.save(function(*arguments), Path(folder, f'{rank}.pth'))
    torch.distributed.barrier()
    # torch 2.11 can deadlock when it destroys the group: it waits for gloo's
    # threads while holding the GIL, which they need to free a tensor.
    os._exit(0)


def _run_script(command, cwd, files):
    from simim_plugin.commands import running

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.setsid()
    os.chdir(cwd)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    # A forked test has streams of pytest's.
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    running.subprocess = _Forks
    _run_main(command)


def _run_main(command):
    """Run a script as the main module."""
    torch.set_num_threads(1)
    sys.argv = command
    runpy.run_path(command[0], run_name='__main__')
    sys.stdout.flush()


class _Forks:
    """Stand in for the module subprocess where ``running`` starts scripts."""

    STDOUT = subprocess.STDOUT

    class Popen:
        def __init__(self, command, stdout, stderr):
            python, *options, script = command[: command.index('-u') + 2]
            assert (python, options) == (sys.executable, ['-u']), command
            words = [script, *command[command.index('-u') + 2 :]]
            self.process = multiprocessing.get_context('fork').Process(
                target=self.run, args=(words, stdout.fileno())
            )
            self.process.start()

        @staticmethod
        def run(words, output):
            for number in (1, 2):
                os.dup2(output, number)
            _run_main(words)

        def poll(self):
            return self.process.exitcode

        returncode = property(poll)

        def wait(self):
            self.process.join()
            return self.process.exitcode

        def terminate(self):
            self.process.terminate()


def _train(folder, log, arguments, before, environment):
    from simim_plugin.commands.train import main

    # PR_SET_PDEATHSIG: end with the tests.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    if before is not None:
        before()
    main([str(argument) for argument in arguments])
    sys.stdout.flush()
