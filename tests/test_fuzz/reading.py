"""Read changed files in a process of little memory and time.

python -m tests.test_fuzz.reading FOLDER READER=COUNT ...

changes the files of FOLDER/READER so many times, and prints how reading each
ends. A file that takes too long ends the process. A file that raises another
error than ours, starts a program or writes a file is a crash.
"""

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from simim_plugin.errors import SimimError
from simim_plugin.text import clean

SECONDS = 20
"""Processor time of a file."""
MEMORY = 2**30
"""Address space of all files, beyond that of the libraries."""
Read = Callable[[], Any]
FORBIDDEN = ('os.system', 'subprocess.Popen', 'os.exec', 'os.posix_spawn')
FORBIDDEN += ('os.fork', 'pickle.find_class', 'exec', 'socket.connect')


class Watch:
    """Notes what a file makes the process do beyond reading."""

    def __init__(self) -> None:
        self.watching = False
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple) -> None:
        if not self.watching:
            return
        if event == 'exec' and args[0].co_filename.startswith(sys.base_prefix):
            return  # a module of Python that is imported late
        writes = event == 'open' and args[2] & (os.O_WRONLY | os.O_RDWR)
        if event in FORBIDDEN or writes:
            self.seen.append(f'{event}{args!r:.200}')


def limit_memory() -> None:
    """Bound the address space by what is in use."""
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def ends(read: Read, watch: Watch) -> tuple[str, str]:
    """Return how reading ends: 'loaded', 'refused' or 'crash', and why."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process
    watch.seen.clear()
    watch.watching = True
    try:
        read()
        found = 'loaded', "''"
    except SimimError as error:
        found = 'refused', repr(str(error))
        if not is_sentence(str(error)):
            found = 'crash', repr(f'no sentence: {error}')
    except Exception:
        found = 'crash', repr(traceback.format_exc())
    watch.watching = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    if watch.seen:
        return 'crash', repr(watch.seen[0])
    return found


def is_sentence(text: str) -> bool:
    return text.endswith('.') and text == clean(text) and len(text) < 1500


def main() -> None:
    from .readers import READERS

    root, *counts = sys.argv[1:]
    watch = Watch()
    readers = []
    for chosen in counts:
        name, _, count = chosen.partition('=')
        files = READERS[name](Path(root, name), Random(0))
        first = next(files)  # after the unchanged files
        readers.append((name, int(count), chain([first], files)))
    limit_memory()
    for name, count, files in readers:
        for what, read in islice(files, count):
            print('READS', name, what, flush=True)
            print('FILE', name, what, *ends(read, watch))
    sys.stdout.flush()
    os._exit(0)  # without the end of libraries


if __name__ == '__main__':
    main()
