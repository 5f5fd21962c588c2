"""Name the limit that loader workers reach: files or shared memory."""

from __future__ import annotations

import re
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SimimError, Trouble

# A process gets the second if it may open no passed descriptor.
_REACHED = re.compile('Too many open files|received 0 items of ancdata')


@contextmanager
def explain_open_files() -> Iterator[None]:
    """Turn the errors of a full /dev/shm or too many files into one sentence.

    Raises:
        SimimError: if the limit is reached. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:  # OSError, RuntimeError or SimimError
        if 'shared memory(shm)' in str(error):
            raise SimimError(
                'The shared memory, /dev/shm, is too small for the batches '
                'of the loader workers; enlarge it (docker run '
                '--shm-size=8g), or lower train_dataloader.num_workers or '
                f'batch_size; see {Trouble.SMALL_LIMITS}.'
            ) from error
        if not _REACHED.search(str(error)):
            raise
        _forget(error)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise SimimError(
            f'The limit of open files, {limit}, is too low for the loader '
            'workers; raise it by `ulimit -n 4096`, or set '
            f'train_dataloader.num_workers=0; see {Trouble.SMALL_LIMITS}.'
        ) from error


def _forget(error: Exception) -> None:
    """Delete a half-built iterator now, whose ``__del__`` prints an error."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    traceback.clear_frames(error.__traceback__)
    sys.unraisablehook = hook
