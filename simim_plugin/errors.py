"""Errors that are one sentence for the user: what, where, how to mend."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SimimError(ValueError):
    """An error whose message is a whole sentence for the user."""


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """Turn an error meant for the user into one line and exit code 1.

    Any other error is a fault of the program and keeps its traceback.
    """
    try:
        yield
    except (SimimError, ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            where = error.filename or 'the output folder'
            sentence = (
                f'The disk is full while writing to {where}; free some space '
                'or choose another --work-dir.'
            )
        else:
            # An error from a data worker brings its traceback along.
            sentence = str(error).strip().splitlines()[-1]
            sentence = sentence.removeprefix(
                f'{type(error).__module__}.{type(error).__qualname__}: '
            )
        print(f'error: {sentence}', file=sys.stderr)
        raise SystemExit(1) from None
