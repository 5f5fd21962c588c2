"""Report processes that the run has lost in one sentence."""

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
# The code that fetches a batch from a worker.
_PIPE = re.compile(r'multiprocessing.(connection|reduction)\.py')
_PEER = re.compile(
    r'Connection (closed|reset) by peer|Broken pipe|Timed out|timed out|'
    r'remote process exited'
)


@contextmanager
def explain_lost_processes() -> Iterator[None]:
    """Turn the errors of a lost process into one sentence.

    Raises:
        SimimError: if a loader worker or another process of the run ended,
            or a worker took too long. Other errors pass unchanged.
    """
    try:
        with _explain_broken_pipes():
            yield
    except Exception as error:
        # Torch raises from a signal handler, at any point of the program;
        # code there may convert the error, as inspect.getfullargspec does.
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
def _explain_broken_pipes() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # EOFError, OSError or RuntimeError
        text = ''.join(traceback.format_exception(error, chain=False))
        if _WORKER.search(str(error)) or not _PIPE.search(text):
            raise
        # The pipe may break before torch's signal handler raises the error
        # that names the worker. Wait for it here, where it is caught.
        time.sleep(1)
        raise _worker_killed('') from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _worker_killed(which: str) -> SimimError:
    return SimimError(
        f'A worker that loads data{which} was killed, most often because the '
        'memory or /dev/shm is full; lower train_dataloader.num_workers or '
        'batch_size, and continue with --resume.'
    )
