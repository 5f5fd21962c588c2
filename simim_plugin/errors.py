"""Errors whose message is one sentence: what failed, where, and the fix."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""


class SimimError(ValueError):
    """An error with a one-sentence message for the user."""


@contextmanager
def one_line_interrupt() -> Iterator[None]:
    """Print one line after Ctrl-C and exit with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print('\nInterrupted.', file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error meant for the user as one line and exit with code 1.

    Any other error is a bug and keeps its traceback.
    """
    try:
        yield
    except (SimimError, ImportError, OSError) as error:
        print(f'error: {_sentence(error)}', file=sys.stderr)
        raise SystemExit(1) from None


def _sentence(error: Exception) -> str:
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if any(os.strerror(number) in str(error) for number in full):
        where = getattr(error, 'filename', None) or 'the output folder'
        return (
            f'The disk is full while writing to {where}; free some space '
            'or choose another --work-dir.'
        )
    # A data worker prepends its traceback to the message, and a hook
    # appends its address.
    kind = type(error)
    sentence = (str(error).strip() or kind.__name__).splitlines()[-1]
    sentence = sentence.removeprefix(f'{kind.__module__}.{kind.__name__}: ')
    sentence = sentence.removeprefix(f'{kind.__name__}: ')
    return re.sub(r' in <\S+ object at 0x\w+>$', '', sentence)
