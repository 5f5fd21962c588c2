"""Turn the errors of a config that others raise into one sentence."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from mmengine.runner import BaseLoop, Runner

from ..errors import SimimError, one_line_errors


def add_traceback_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that :func:`explained_errors` reads."""
    parser.add_argument(
        '--traceback',
        action='store_true',
        help='print the traceback of an error before its sentence',
    )


@contextmanager
def explained_errors(argv: Sequence[str] | None) -> Iterator[None]:
    """Print an error of the user or of a config as one line; exit code 1.

    An error counts as one of the config if it is raised while the config is
    read, or while something is built from it. Any other is a bug and keeps
    its traceback.

    Args:
        argv (Sequence[str], optional): arguments of the command; those of
            the process if None. ``--traceback`` prints every traceback.
    """
    with one_line_errors():
        try:
            yield
        except Exception as error:
            if '--traceback' in (sys.argv[1:] if argv is None else argv):
                traceback.print_exc()
            sentence = sentence_of(error)
            if sentence is None:
                raise
            raise SimimError(sentence) from error


def sentence_of(error: Exception) -> str | None:
    """Return the sentence for an error of a config, None for any other."""
    if isinstance(error, (SimimError, ImportError, OSError)):
        return None  # these have their own sentence
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(_runs(frame) for frame in frames):
        return None
    words = ' '.join(str(error.args[0] if error.args else error).split())
    words = f'{type(error).__name__}: {words}'.rstrip('.')
    for frame in reversed(frames):
        name = frame.f_globals.get('__name__', '')
        if name == 'mmengine.registry.build_functions':
            made = frame.f_locals.get('obj_cls') or frame.f_locals['cfg']
            made = getattr(made, '__name__', 'a part of the config')
            return (
                f'Cannot build {made} ({words}); correct its settings, or '
                'add --traceback to see where.'
            )
        if name.startswith('mmengine.config'):
            return (
                f'Cannot read the config ({words}); correct the file or '
                '--cfg-options, or add --traceback to see where.'
            )
        if _builds(frame, frame is frames[-1]):
            return (
                f'Cannot build a run from the config ({words}); correct it, '
                'or add --traceback to see where.'
            )
    return None


def _runs(frame: FrameType) -> bool:
    """Whether a frame is of a loop that trains or tests."""
    runs = frame.f_code.co_name.startswith('run')
    return runs and isinstance(frame.f_locals.get('self'), BaseLoop)


def _builds(frame: FrameType, raised_here: bool) -> bool:
    """Whether a frame is of a Runner that prepares a run."""
    if frame.f_globals.get('__name__') != Runner.__module__:
        return False
    name = frame.f_code.co_name
    builds = ('__init__', 'build_', '_check', '_init_model', '_maybe_compile')
    return raised_here or name.startswith(builds)
