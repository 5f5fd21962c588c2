"""Keep the terminal of a run short; its log file has every line."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.logging
from mmengine.logging import MMLogger

_LIBRARIES = {'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg'}

_LOGGING = rf'(mmengine\.)?logging\b|{re.escape(__name__)}$'
"""Modules through which a line comes."""

_KEPT = re.compile('resumed epoch: ')
"""Lines of mmengine before the first step that a user needs."""

_NOTICES = re.compile(
    r'(?i)deprecated|upcoming release|Could not import OneDL'
    r'|Fail to import ``MultiScaleDeformableAttention``'
    r'|Line NMS is not compiled|faster_coco_eval is not installed'
    r'|Default ``avg_non_ignore`` is False|The draw is False'
    r'|For binary segmentation, we suggest'
    r'|The prefix is not set in metric class'
    r"|'pin_memory' argument is set as true but no accelerator"
    r'|^Exp name: '
)
"""Notices of other libraries that are not about the user's run."""

_PACKAGE = str(Path(__file__).parents[1])

_early: list[str] = []
"""Notices before there is a log file."""


class ShortTerminal(logging.Filter):
    """Let through what concerns the run.

    Until a loop begins, lines of the OpenMMLab libraries below a warning
    are left to the log file: the environment, the config, the table of hooks.
    Their notices are always left to it. Lines of other code, warnings and
    errors are printed. A logger of the level DEBUG prints all.

    Args:
        logger (MMLogger): whose terminal is filtered.

    Attributes:
        started (bool): whether a loop has begun.
    """

    def __init__(self, logger: MMLogger) -> None:
        super().__init__()
        self.started = False
        for handler in logger.handlers:
            if not _is_file(handler) and handler.level > logging.DEBUG:
                for old in [*handler.filters]:
                    if isinstance(old, ShortTerminal):
                        handler.removeFilter(old)
                handler.addFilter(self)
        notices = [*_early]
        _early.clear()
        for notice in notices:
            _note(notice)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the terminal prints a record."""
        if hasattr(record, 'notice'):
            return False
        if record.levelno >= logging.ERROR or not _by_library():
            return True
        text = record.getMessage()
        if _NOTICES.search(text):
            return False
        loud = record.levelno >= logging.WARNING
        return self.started or loud or _KEPT.match(text) is not None


def _by_library() -> bool:
    """Whether the code that logs is of an OpenMMLab library."""
    frame: Any = sys._getframe()
    while frame is not None:
        name = frame.f_globals.get('__name__', '')
        if not re.match(_LOGGING, name):
            return name.partition('.')[0] in _LIBRARIES
        frame = frame.f_back
    return False


@contextmanager
def noted_notices() -> Iterator[None]:
    """Log Python's warnings too, and print no notice of other libraries.

    Each warning goes to the log file, and to the terminal unless it is a
    notice. Within another context of this kind, nothing changes.
    """
    shown, printed = warnings.showwarning, mmengine.logging.print_log
    handled = MMLogger.callHandlers
    if getattr(shown, '__module__', '') == __name__:
        yield
        return

    def show(
        message: Any,
        category: Any,
        filename: str,
        lineno: int,
        file: Any = None,
        line: Any = None,
    ) -> None:
        _note(warnings.formatwarning(message, category, filename, lineno))
        ours = filename.startswith(_PACKAGE)
        if ours or not _NOTICES.search(str(message)):
            shown(message, category, filename, lineno, file, line)

    def print_log(msg: Any, logger: Any = None, level: int = 20) -> None:
        # mmengine prints messages of any level that have no logger.
        if logger is None and level < logging.INFO:
            _note(str(msg))
        else:
            printed(msg, logger, level)

    def handle(logger: MMLogger, record: logging.LogRecord) -> None:
        # A logger of imports has no file yet.
        filed = any(map(_is_file, logger.handlers))
        if not filed and _NOTICES.search(record.getMessage()):
            _note(record.getMessage())
        else:
            handled(logger, record)

    warnings.showwarning, mmengine.logging.print_log = show, print_log
    MMLogger.callHandlers = handle  # type: ignore[method-assign]
    try:
        yield
    finally:
        warnings.showwarning, mmengine.logging.print_log = shown, printed
        MMLogger.callHandlers = handled  # type: ignore[method-assign]


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Drop what this process and its children write to stderr."""
    kept = os.dup(2)
    try:
        with open(os.devnull, 'w') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _note(text: str) -> None:
    """Write a text to the log file of the run, or keep it for that."""
    logger = next(reversed(MMLogger._instance_dict.values()), None)
    if logger is None or not any(map(_is_file, logger.handlers)):
        _early.append(text)
        return
    about = (logger.name, logging.INFO, __file__, 0, text, (), None)
    logger.handle(logger.makeRecord(*about, extra=dict(notice=True)))


def _is_file(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.FileHandler)
