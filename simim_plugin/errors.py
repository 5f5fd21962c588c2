"""Errors whose message is one sentence: what failed, where, and the fix."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from .text import clean

__all__ = ['SimimError']

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in a shell."""

# What torch puts before the message of an error in a data worker.
_WORKER = re.compile(r'Caught \w+ in .*\nOriginal Traceback \(')


class Trouble(Enum):
    """A symptom that a user meets, and its heading in docs/troubles.md.

    In a sentence it stands for the place to read, such as
    ``docs/troubles.md#collapse``.
    """

    WRONG_STACK = 'wrong-stack'
    NOT_IN_REGISTRY = 'not-in-a-registry'
    TOO_FEW_IMAGES = 'too-few-images'
    NO_FIT = 'a-checkpoint-does-not-fit'
    CHANGED = 'resume-is-refused'
    UNREADABLE = 'an-image-cannot-be-read'
    LOSS_STAYS = 'the-loss-does-not-fall'
    COLLAPSE = 'collapse'
    NOT_FINITE = 'nan-or-infinite'
    WAITING = 'waiting-for-data'
    OUT_OF_MEMORY = 'out-of-memory'
    SMALL_LIMITS = 'small-limits'

    def __str__(self) -> str:
        return f'docs/troubles.md#{self.value}'


class SimimError(ValueError):
    """An error with a one-sentence message for the user.

    Args:
        message (object): cleaned of control characters, which names of files
            may hold.
    """

    def __init__(self, message: object = '') -> None:
        text = str(message)
        super().__init__(text if _WORKER.match(text) else clean(text))


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
    file = getattr(error, 'filename', None)
    if any(os.strerror(number) in str(error) for number in full):
        return (
            'The disk is full while writing to '
            f'{clean(file or "the output folder")}; free some space or '
            'choose another --work-dir.'
        )
    kind = type(error)
    sentence = str(error).strip() or kind.__name__
    if isinstance(error, OSError) and error.strerror and file:
        sentence = f'{error.strerror}: {file}; check the path.'
    elif isinstance(error, SimimError | ImportError):
        # After the traceback of a data worker. The sentence is clean.
        sentence = sentence.splitlines()[-1]
    elif _WORKER.match(sentence):
        name = rf'^(?:[\w.]+\.)?{kind.__name__}: '
        sentence = re.split(name, sentence, maxsplit=1, flags=re.MULTILINE)[-1]
    sentence = sentence.removeprefix(f'{kind.__module__}.{kind.__name__}: ')
    sentence = sentence.removeprefix(f'{kind.__name__}: ')
    # A hook appends its address.
    return clean(re.sub(r' in <\S+ object at 0x\w+>$', '', sentence))
