"""Name the process of a run that no longer answers.

Each process counts its events and publishes the count in the store of
``torch.distributed``, from a thread. A collective waits for a frozen process
up to its time-out, does not say for which, and under NCCL then aborts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_SHARE = 0.8
"""Share of the time-out after which a process is named: before the
collectives give up.
"""


def process_timeout(config: Mapping[str, Any]) -> timedelta:
    """Return how long a process waits for the others.

    ``env_cfg.dist_cfg.timeout`` in seconds, else torch's own: 600 with GPUs
    and 1800 without.
    """
    settings = (config.get('env_cfg') or {}).get('dist_cfg') or {}
    default = 600 if torch.cuda.is_available() else 1800
    return timedelta(seconds=settings.get('timeout') or default)


class PeerWatch:
    """Ends this process with a sentence if another one no longer answers.

    The main thread calls :meth:`moved` at each event of the run. If it has
    not for 0.8 of the time-out, it waits for others: those that published
    nothing since are frozen, and those with fewer events hang.

    Args:
        timeout (timedelta): the time-out of the collectives.
        end (Callable): called with the sentence and the exit code.
    """

    def __init__(
        self, timeout: timedelta, end: Callable[[str, int], Any]
    ) -> None:
        self.limit = timeout.total_seconds() * _SHARE
        self.beat = min(self.limit / 10, 10.0)
        self.end = end
        self.events = 0
        self.last = self.answered = time.monotonic()
        # By process: its beats, its events, and when the beats changed.
        self.seen: dict[int, tuple[int, int, float]] = {}
        self.stopped = threading.Event()

    def moved(self) -> None:
        """Note an event of the run."""
        self.events += 1
        self.last = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Publish and watch, in a run of several processes."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            yield
            return
        self.last = self.answered = time.monotonic()
        threads = [
            threading.Thread(target=target, daemon=True)
            for target in (self._publish, self._watch_the_store)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join(1)  # a store may never answer

    def _publish(self) -> None:
        store = dist.distributed_c10d._get_default_store()
        rank, published = dist.get_rank(), 0
        while not self.stopped.wait(self.beat):
            try:
                # Unlike get, add does not wait for a key.
                events = self.events
                store.add(f'events_{rank}', events - published)
                store.add(f'beats_{rank}', 1)
                published, self.answered = events, time.monotonic()
                if time.monotonic() - self.last > self.limit / 2:
                    self._look_at_others(store, rank)
            except RuntimeError:  # the process that keeps the store has ended
                return

    def _look_at_others(self, store: Any, rank: int) -> None:
        now = time.monotonic()
        for peer in set(range(dist.get_world_size())) - {rank}:
            events = store.add(f'events_{peer}', 0)
            beats = store.add(f'beats_{peer}', 0)
            before = self.seen.get(peer)
            if before is None or beats != before[0]:
                self.seen[peer] = (beats, events, now)
        if now - self.last < self.limit:
            return
        silent = [
            peer
            for peer, (*_, since) in self.seen.items()
            if now - since > self.limit / 4
        ]
        behind = [
            peer
            for peer, (_, events, _) in self.seen.items()
            if events < self.events
        ]
        if silent or behind:
            self._end(silent or behind)

    def _watch_the_store(self) -> None:
        """Notice that the store, in process 0 or torchrun, is frozen."""
        while not self.stopped.wait(self.beat):
            if time.monotonic() - max(self.last, self.answered) > self.limit:
                self._end([0])

    def _end(self, peers: list[int]) -> None:
        if self.stopped.is_set():
            return
        names = ', '.join(map(str, sorted(peers)))
        self.end(
            f'error: Process {names} of 0 to {dist.get_world_size() - 1} has '
            f'not answered for {self.limit:.0f} s (0.8 of '
            'env_cfg.dist_cfg.timeout); look at its machine, end it, and '
            'continue with --resume.',
            1,
        )
