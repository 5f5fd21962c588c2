"""Run a long command: full output to a log file, progress to stdout."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..errors import SimimError, Trouble
from ..text import ESTIMATE, clean, without_colour

_OPTIONS = '--(accept-changes|extend|restart-epoch|pretrained FILE)'
"""Options of train.py that other commands do not have."""

QUIET_SECONDS = 5.0
"""Seconds between two lines of progress."""


def run_script(
    script: Path, words: Sequence[str], log: Path, gpus: int = 1
) -> list[str]:
    """Run a script of ``tools`` by :func:`run_logged`.

    Args:
        script (Path): for example ``tools/train.py``.
        words (Sequence[str]): its arguments.
        log (Path): file for its output.
        gpus (int): processes, one on each GPU; torchrun starts several.

    Returns:
        list[str]: the command.
    """
    command = [sys.executable, '-u']
    if gpus > 1:
        command += ['-m', 'torch.distributed.run', '--standalone']
        command += [f'--nproc_per_node={gpus}']
        words = [*words, '--launcher', 'pytorch']
    command += [str(script), *words]
    run_logged(command, log)
    return command


def train_on(
    tools: Path, words: Sequence[str], work_dir: Path, log: Path, gpus: int = 1
) -> None:
    """Train in a folder, or resume what was begun there.

    The figures of one command come from one set of settings, so there is no
    option to go on with others.

    Args:
        tools (Path): folder of train.py.
        words (Sequence[str]): arguments of train.py, the config first.
        work_dir (Path): of the training.
        log (Path): file for the output.
        gpus (int): processes.

    Raises:
        SimimError: if the training fails, or was begun with other settings
            or images.
    """
    words = [*words[:1], '--work-dir', str(work_dir), '--resume', *words[1:]]
    try:
        run_script(tools / 'train.py', words, log, gpus)
    except SimimError as error:
        sentence = str(error).replace(f'; see {Trouble.CHANGED}', '')
        cause, _, advice = sentence.rpartition('; ')
        if not re.search(_OPTIONS, advice):
            raise
        raise SimimError(
            f'The training in {work_dir} cannot go on: {cause}; remove that '
            'folder to train anew, or choose another --work-dir.'
        ) from error


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP, as Ctrl-C does its own error.

    Only the main thread can handle them. An ignored one stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda n, _: sys.exit(128 + n))
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@_exit_on_signals()
def run_logged(command: Sequence[str], log: Path) -> None:
    """Run a command, write its output to ``log`` and print its progress.

    Raises:
        SimimError: if the command fails, with its own error sentence.
        SystemExit: on SIGTERM or SIGHUP, after the command has ended.
        KeyboardInterrupt: on Ctrl-C, after the command has ended.
    """
    words = ' '.join(map(str, command))
    print(f'  {clean(words)}\n  log: {clean(log)}', flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w') as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        with log.open(errors='replace') as source:
            _relay(process, source)
    finally:
        if process.poll() is None:
            process.terminate()
            _wait_for_the_end(process)
    if process.returncode:
        lines = log.read_text(errors='replace').strip().splitlines() or ['']
        if lines[-1].startswith('error: '):
            raise SimimError(lines[-1].removeprefix('error: '))
        print('\n'.join(map(without_colour, lines[-15:])), file=sys.stderr)
        raise SimimError(
            f'The command ended with exit code {process.returncode}; its '
            f'last lines are above, all of them in {log}.'
        )


def _wait_for_the_end(process: subprocess.Popen) -> None:
    """Wait, though a signal comes again: a terminal sends it to all."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # to be restored
    process.wait()


def _relay(process: subprocess.Popen, source: TextIO) -> None:
    """Print the last progress in a log every few seconds."""
    start = printed = time.monotonic()
    rest, last = '', 'starting'
    while process.poll() is None:
        time.sleep(0.25)
        *lines, rest = (rest + source.read()).split('\n')
        last = next(filter(None, map(progress, reversed(lines))), last)
        now = time.monotonic()
        if now - printed >= QUIET_SECONDS:
            print(f'  {now - start:4.0f} s  {clean(last)}', flush=True)
            printed = now


def progress(line: str) -> str:
    """Return the progress that a line of a log reports, '' if none.

    Lines of progress name the time left: mmengine's logger, the estimate of
    the first steps, the extraction of features, and :func:`run_logged` in a
    command that runs others. A line by mmengine's logger keeps its place, the
    time left and the loss.
    """
    message = line.rpartition(' - ')[2].strip()
    if not any(('eta: ' in line, line.endswith(' left'), ESTIMATE in message)):
        return ''
    seconds, _, relayed = message.partition(' s  ')
    place, *figures = (relayed if seconds.isdigit() else message).split('  ')
    kept = [
        figure.strip()
        for figure in figures
        if figure.strip().startswith(('[', 'eta: ', 'loss: '))
    ]
    return '  '.join([place, *kept])
