"""What kills a run from outside, said in a sentence."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import is_distributed

from ..errors import SimimError

_WORKER = re.compile(r'DataLoader worker \(pid\S* ([\d, ]+)\)(?: is killed)?')
_SLOW = re.compile(r'DataLoader timed out after (\S+) seconds')
# Where a batch is fetched from a worker that is not yet known to be dead.
_PIPE = re.compile(r'multiprocessing.(connection|reduction)\.py')
_PEER = re.compile(
    r'Connection (closed|reset) by peer|Broken pipe|Timed out|timed out|'
    r'remote process exited'
)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the end of another process into a sentence; the rest passes.

    Raises:
        SimimError: if a loader worker or another process of the run ended,
            or a worker took too long.
    """
    try:
        with _broken_pipes_explained():
            yield
    except Exception as error:
        # Torch's error comes wherever the signal finds us, and that place
        # may make another of it, as inspect.getfullargspec does.
        if match := _WORKER.search('\n'.join(map(str, _chain(error)))):
            raise _worker_killed(f' (process {match[1]})') from error
        if not isinstance(error, RuntimeError):
            raise
        text = str(error)
        if match := _SLOW.search(text):
            raise SimimError(
                'Loading one batch took longer than train_dataloader.timeout '
                f'({match[1]} s); raise it or num_workers, or look whether '
                'the images can be read, and continue with --resume.'
            ) from error
        match = _PEER.search(text)
        if match and is_distributed():
            raise SimimError(
                f'Another process of the run has ended or hangs ({match[0]}); '
                'its own last message says why, and --resume continues the '
                'run.'
            ) from error
        raise


@contextmanager
def _broken_pipes_explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # EOFError, OSError, RuntimeError: it depends
        text = ''.join(traceback.format_exception(error, chain=False))
        if _WORKER.search(str(error)) or not _PIPE.search(text):
            raise
        # A signal tells torch of the dead worker at any moment, and torch
        # raises an error with its number: wherever we are, so better here.
        time.sleep(1)
        raise _worker_killed('') from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _worker_killed(which: str) -> SimimError:
    return SimimError(
        f'A worker that loads data{which} was killed, most often because the '
        'memory or /dev/shm is full; lower train_dataloader.num_workers or '
        'batch_size, and continue with --resume.'
    )
