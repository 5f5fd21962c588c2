"""Errors that are one sentence for the user: what, where, how to mend."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SimimError(ValueError):
    """An error whose message is a whole sentence for the user."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error meant for the user into one line and exit code 1.

    Any other error is a fault of the program and keeps its traceback.
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
    # An error from a data worker brings its traceback along, one from a
    # hook the hook's address.
    kind = type(error)
    sentence = (str(error).strip() or kind.__name__).splitlines()[-1]
    sentence = sentence.removeprefix(f'{kind.__module__}.{kind.__name__}: ')
    sentence = sentence.removeprefix(f'{kind.__name__}: ')
    return re.sub(r' in <\S+ object at 0x\w+>$', '', sentence)
