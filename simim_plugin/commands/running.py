"""Long commands as a part of another: a log file, and news on stdout."""

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
from typing import Any

from ..errors import SimimError

QUIET_SECONDS = 5.0

# What mmengine's logger writes: progress, time left, and in training a loss.
_LOGGED = re.compile(
    r'(?:Epoch|Iter)\((?P<mode>train|val|test)\)\s+(?P<at>\[.*\])\s.*'
    r'eta: (?P<left>(?:\d+ days?, )?[\d:]+)(?:\s.*\bloss: (?P<loss>\S+))?'
)

# What this module writes about a command that runs others.
_RELAYED = re.compile(r'  +\d+ s  (?P<news>.+)')

# What evaluation.extract_features writes.
_FEATURES = re.compile(r'features: batch \d+ of \d+, \S+ left')


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let ``finally`` run, where a signal may be handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@_exit_on_sigterm()
def run_logged(command: Sequence[str], log: Path) -> None:
    """Run a command, all it says in ``log``, the news on stdout.

    Raises:
        SimimError: with the sentence that the command ended with.
        SystemExit: on SIGTERM, when the command has ended of it too.
    """
    print(f'  {" ".join(map(str, command))}\n  log: {log}', flush=True)
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
            process.wait()
    if process.returncode:
        lines = log.read_text(errors='replace').strip().splitlines() or ['']
        if lines[-1].startswith('error: '):
            raise SimimError(lines[-1].removeprefix('error: '))
        print('\n'.join(lines[-15:]), file=sys.stderr)
        raise SimimError(
            f'The command ended with exit code {process.returncode}; its '
            f'last lines are above, all of them in {log}.'
        )


def _relay(process: subprocess.Popen, source: Any) -> None:
    """Print how far the command is, and that it lives, until it ends."""
    start = said = time.monotonic()
    rest, news = '', ''
    while process.poll() is None:
        time.sleep(0.25)
        *lines, rest = (rest + source.read()).split('\n')
        for line in lines:
            news = _news(line) or news
        now = time.monotonic()
        if now - said >= QUIET_SECONDS:
            print(f'  {now - start:4.0f} s  {news or "starting"}', flush=True)
            said = now


def _news(line: str) -> str | None:
    """What a line of the log says about progress, if anything."""
    relayed = _RELAYED.fullmatch(line)
    if relayed is not None:
        return relayed['news']
    match = _FEATURES.search(line)
    if match is not None:
        return match[0]
    match = _LOGGED.search(line)
    if match is None:
        return None
    loss = '' if match['loss'] is None else f'  loss {match["loss"]}'
    return f'{match["mode"]} {match["at"]}{loss}  {match["left"]} left'
