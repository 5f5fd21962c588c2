"""Options that several commands have, ``--cfg-options`` above all.

Its paths are taken as they are typed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction

from ..checkpoint.loading import BRANCHES
from ..errors import SimimError
from ..settings.check import rule_of

_PATHS = re.compile(
    r'(?:^|_)(root|path|dir|folder|prefix|file|files|from|checkpoint|pretrained|'
    r'train|val|img)$'
)


class OptionsAction(argparse.Action):
    """Collect KEY=VALUE words as a dict of texts; see :func:`merge`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add the words to those of an earlier option."""
        options = dict(getattr(namespace, self.dest) or {})
        for word in values:
            key, sign, value = word.partition('=')
            if not sign or not key:
                raise SimimError(
                    f'{option_string} takes KEY=VALUE, and {word!r} is none; '
                    'quote a value with blanks, as in KEY="my value".'
                )
            options[key] = value
        setattr(namespace, self.dest, options)


def add_options(parser: argparse.ArgumentParser, words: str) -> None:
    """Add ``--cfg-options`` to a command.

    Args:
        parser (argparse.ArgumentParser): of the command.
        words (str): the help.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        default={},
        metavar='KEY=VALUE',
        help=words,
    )


def add_encoder_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add ``--branch`` and ``--num-heads`` to a command.

    Args:
        parser (argparse.ArgumentParser): of the command.
        verb (str): what the command does with an encoder, for the help.
    """
    parser.add_argument(
        '--branch',
        choices=[*BRANCHES],
        default='online',
        help=f'the encoder to {verb}, of a file with two. Defaults to online',
    )
    parser.add_argument(
        '--num-heads',
        type=int,
        help='attention heads, of an encoder whose file does not state them',
    )


def typed_command(tool: str, argv: Sequence[str] | None) -> str:
    """Return the line that starts a command.

    Args:
        tool (str): file of ``tools/``, without its ending.
        argv (Sequence[str], optional): arguments; those of the process if
            None.
    """
    words = sys.argv[1:] if argv is None else argv
    return shlex.join(['python', f'tools/{tool}.py', *words])


def merge(config: Config, options: Mapping[str, str]) -> None:
    """Override settings of a config.

    A value whose setting is a text now, or names a file or folder, is taken
    as typed, unless the setting takes no such text but what it reads as: 512
    in the place of 'dynamic'. Others are read as MMEngine's ``DictAction``
    reads them: numbers, booleans, None, lists and tuples.

    Args:
        config (Config): is changed.
        options (Mapping[str, str]): values by dotted keys.

    Raises:
        SimimError: if a key names no item of a list, or the brackets of a
            value are not balanced.
    """
    for key in options:
        _check_items(config, key)
    values = {key: _value(config, key, options[key]) for key in options}
    config.merge_from_dict(values)


def _check_items(config: Config, key: str) -> None:
    """Refuse a key that enters a list without the number of an item."""
    names = key.split('.')
    for depth in range(1, len(names)):
        items = _setting(config, names[:depth])
        if not isinstance(items, list) or names[depth] in map(
            str, range(len(items))
        ):
            continue
        path = '.'.join(names[:depth])
        rest = names[depth + names[depth].lstrip('-').isdigit() :]
        advice = f'write {".".join([path, "0", *rest])}'
        raise SimimError(
            f'{key} of --cfg-options names no item of {path}, a list of '
            f'{len(items)}; {advice if items else f"set {path} itself"}.'
        )


def _value(config: Config, key: str, text: str) -> Any:
    if text == 'None':
        return None
    now = _setting(config, key.split('.'))
    name = key.rpartition('.')[2]
    if now is None and _PATHS.search(name):
        return text
    if isinstance(now, str):
        rule = rule_of(config, key)
        if rule is None or rule.holds(text):
            return text
        value = _read(key, text)
        return value if rule.holds(value) else text
    return _read(key, text)


def _read(key: str, text: str) -> Any:
    """Read a value as MMEngine does.

    Raises:
        SimimError: if its brackets are not balanced.
    """
    if not re.search(r'[,\[\](){}]', text) and ' ' in text:
        return text  # DictAction would join the words
    try:
        return DictAction._parse_iterable(text)
    except (AssertionError, RecursionError) as error:
        raise SimimError(
            f'Cannot read {key}={text} of --cfg-options; balance the brackets,'
            ' and set a dictionary by the names below it, as in KEY.NAME=1.'
        ) from error


def _setting(config: Any, path: Sequence[str]) -> Any:
    """Return a setting, None if there is none."""
    for name in path:
        if isinstance(config, (list, tuple)) and name.isdigit():
            config = config[int(name)] if int(name) < len(config) else None
        elif isinstance(config, Mapping) or hasattr(config, 'get'):
            config = config.get(name)
        else:
            return None
    return config
