"""Keep two training runs out of one work directory.

The lock is a file with the machine and the process of the run. A run on the
same machine is judged by its process, so that nothing is left to wait for
after a kill. A run on another machine is judged by its heartbeat, the
modification time of the file.

The library ``filelock`` comes with torch, but not in one version. Its native
locks (flock) need not cross hosts on NFS. Its ``SoftFileLock`` never breaks
the lock of another machine, and older ones break none at all; its lease
would let a frozen run of the same machine be overtaken, and needs 3.30. The
work directory needs both rules, and the name of the other run.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from ..errors import SimimError
from ..text import clean

NAME = 'run.lock'
BEAT = 10.0
"""Seconds between two signs of life."""
SILENCE = 60.0
"""Seconds without a sign after which a run elsewhere counts as dead."""

# The owner of a lock, and the time of its last sign in ns.
_Found = tuple[dict[str, Any], int]


@contextmanager
def hold_work_dir(folder: str | Path) -> Iterator[WorkDirLock | None]:
    """Hold the lock of a work directory, in the main process.

    The other processes wait for it.

    Args:
        folder (str | Path): the work directory; it is created.

    Raises:
        SimimError: in all processes, if another run holds it.
    """
    lock = WorkDirLock(folder) if is_main_process() else None
    refusal: list[Any] = [None]
    if lock is not None:
        try:
            lock.acquire()
        except (SimimError, OSError) as error:
            refusal = [str(error)]
    broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise SimimError(refusal[0])
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()


def is_held(folder: str | Path) -> bool:
    """Return whether a run on any machine seems to train in a folder."""
    return WorkDirLock(folder).seems_held()


class WorkDirLock:
    """The lock file of a work directory.

    Args:
        folder (str | Path): the work directory.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder, NAME)
        self.owner = dict(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            start=_start_time(os.getpid()),
            token=uuid.uuid4().hex,
        )
        self._aside = self.path.with_name(f'{NAME}.{self.owner["token"]}')
        self._released = threading.Event()
        self._mutex = threading.Lock()
        self._successor: dict[str, Any] | None = None

    def acquire(self) -> None:
        """Create the file, in place of one that a dead run has left.

        Raises:
            SimimError: if another run is alive.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            found = self._read()
            if found is None:
                continue
            if not self._is_abandoned(*found):
                owner = (self._read() or found)[0]
                raise SimimError(
                    f'Another run trains in {self.path.parent} '
                    f'({_in_words(owner)}); end it, or choose another '
                    '--work-dir.'
                )
            self._remove(*found)
        threading.Thread(target=self._beat, daemon=True).start()

    def seems_held(self) -> bool:
        """Return whether a run holds the lock, without waiting for signs."""
        found = self._read()
        if found is None:
            return False
        if found[0].get('machine') == self.owner['machine']:
            return not self._is_abandoned(*found)
        return time.time() - found[1] / 1e9 < SILENCE

    def release(self) -> None:
        """Remove the file, unless another run has it now."""
        self._released.set()
        with self._mutex, suppress(OSError):
            found = self._read()
            if found is not None and found[0] == self.owner:
                self.path.unlink()

    def check(self) -> None:
        """Make sure that no other run has taken the directory over.

        Raises:
            SimimError: if one has.
        """
        if self._successor is not None:
            raise SimimError(
                f'Another run ({_in_words(self._successor)}) has taken '
                f'{self.path.parent} over, because this one gave no sign of '
                f'life for {SILENCE:.0f} s; continue with --resume in another '
                '--work-dir, or end the other run.'
            )

    def _create(self) -> bool:
        try:
            file = self.path.open('x', encoding='utf-8')
        except FileExistsError:
            return False
        try:
            with file:
                json.dump(self.owner, file)
        except OSError:  # the disk is full
            self.path.unlink()
            raise
        return True

    def _read(self) -> _Found | None:
        try:
            with self.path.open(encoding='utf-8', errors='replace') as file:
                text = file.read(4096)
                beat = os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None
        return _owner(text), beat

    def _is_abandoned(self, owner: dict[str, Any], beat: int) -> bool:
        """Return whether the run of a lock is dead, or the lock is gone."""
        pid, start = owner.get('pid'), owner.get('start')
        if owner.get('machine') == self.owner['machine']:
            return not (isinstance(pid, int) and _is_alive(pid, start))
        end = time.monotonic() + SILENCE
        logged = False
        # A clock of this machine may differ from the one of the files.
        while self._file_time() - beat <= SILENCE * 1e9:
            if time.monotonic() > end:
                break
            if not logged:
                print_log(
                    f'Waiting up to {SILENCE:.0f} s for a sign of life of the '
                    f'run in {clean(self.path.parent)} ({_in_words(owner)}).',
                    logger='current',
                )
            logged = True
            time.sleep(SILENCE / 20)
            if (found := self._read()) != (owner, beat):
                return found is None
        return True

    def _file_time(self) -> int:
        """Return the time at the file server in ns."""
        self._aside.touch()
        try:
            return self._aside.stat().st_mtime_ns
        finally:
            self._aside.unlink()

    def _remove(self, owner: dict[str, Any], beat: int) -> None:
        """Remove a lock if it is still the one that was judged."""
        with _one_at_a_time(self.path.parent):
            if self._read() != (owner, beat):
                return
            with suppress(FileNotFoundError):
                self.path.rename(self._aside)
                moved = _owner(self._aside.read_text(errors='replace'))
                # Only where a file system has no flock: another run came in
                # between. If its lock cannot be put back, it finds out.
                if moved.get('token') != owner.get('token'):
                    with suppress(OSError):
                        os.link(self._aside, self.path)
                self._aside.unlink()

    def _beat(self) -> None:
        """Give signs of life, and look who holds the lock."""
        while not self._released.wait(BEAT):
            with self._mutex, suppress(OSError):  # the server may be away
                found = self._read()
                if self._released.is_set():
                    return
                if found is None:
                    self._create()
                elif found[0] == self.owner:
                    os.utime(self.path)
                else:
                    self._successor = found[0]


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time in, where the file system has flock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _owner(text: str) -> dict[str, Any]:
    try:
        owner = json.loads(text)
    except (ValueError, RecursionError):  # created, not yet written
        return {}
    return owner if isinstance(owner, dict) else {}


def _machine() -> str:
    """Identify what a process number belongs to.

    Another boot and another container of the same name count as another
    machine.
    """
    boot = namespace = ''
    with suppress(OSError):
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        namespace = str(os.stat('/proc/self/ns/pid').st_ino)
    return ' '.join((socket.gethostname(), boot, namespace))


def _start_time(pid: int) -> str | None:
    """Return when a process started, '' for a zombie, None if unknown."""
    try:
        text = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return None
    fields = text.rpartition(')')[2].split()
    return '' if fields[0] in 'ZX' else fields[19]


def _is_alive(pid: int, start: str | None) -> bool:
    """Return whether the process that started then still runs."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return _start_time(pid) in (start, None)


def _in_words(owner: dict[str, Any]) -> str:
    host = ascii(owner.get('host', 'unknown'))[1:-1][:80]
    return f'process {ascii(owner.get("pid", "?"))[:20]} on {host}'
