"""Write settings as the text of a config, with a reason beside each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

WIDTH = 79
"""Longest line of a config, where it can be broken."""

MOST_LINES = 40
"""Lines of a config, for which its lines may be longer."""

_WIDTHS = range(WIDTH, 400, 20)

_SOURCES = {
    'model': 'from the encoder and the data',
    'train_dataloader': 'from the data and the cores',
    'val_dataloader': 'from the data and the cores',
    'test_dataloader': 'from the data and the cores',
    'val_evaluator': 'from the data',
    'test_evaluator': 'from the data',
    'test_cfg': 'from the data',
    'optim_wrapper': 'from the length and the machine',
    'auto_scale_lr': 'pictures of a step',
    'default_hooks': 'from the length',
    'param_scheduler': 'from the length',
}
"""Reasons of statements whose first line has none."""


class Code(str):
    """A value that is written as it is: names and expressions of Python."""

    __slots__ = ()


def extended(base: Code, settings: Mapping[str, Any]) -> Code:
    """Return a dictionary of a packaged config with other settings."""
    lines = [f'dict({base}']
    for name, value in settings.items():
        if isinstance(value, Mapping):  # it replaces that of the base
            value = {k: v for k, v in value.items() if k != '_delete_'}
        word = f'{name}={_value(value)}'
        if len(lines) > 1 and len(f'{lines[-1]}, {word}') < 2 * WIDTH:
            lines[-1] += f', {word}'
        else:
            lines[-1] += ','
            lines.append(f'            {word}')
    return Code('\n'.join(lines) + ')')


class Setting(NamedTuple):
    """A value and why it was chosen.

    Args:
        value (Any): a plain value or :class:`Code`.
        why (str): the comment beside it; none if empty.
    """

    value: Any
    why: str = ''


class Written:
    """The settings of a config that is written, by dotted keys.

    Args:
        base (str): the packaged config that it inherits.
        about (list[str]): lines of comment at the top.
    """

    def __init__(self, base: str, about: list[str]) -> None:
        self.base = base
        self.about = about
        self.settings: dict[str, Setting] = {}

    def set(self, key: str, value: Any, why: str = '') -> None:
        """Set a value, in place of an earlier one.

        Args:
            key (str): dotted, such as ``model.backbone.arch``.
            value (Any): see :class:`Setting`.
            why (str): see :class:`Setting`.
        """
        self.settings[key] = Setting(value, why)

    def __str__(self) -> str:
        """Return the text of the config, of ``MOST_LINES`` if they suffice."""
        lines: list[str] = []
        for width in _WIDTHS:
            lines = [f'# {line}'.rstrip() for line in self.about]
            lines += [
                "_base_ = __import__('simim_plugin').config_path(",
                f'    {self.base!r})',
                '',
            ]
            for name, part in _nested(self.settings).items():
                lines += _explained(name, _statement(name, part, width), width)
            if len(lines) <= MOST_LINES:
                break
        return '\n'.join(lines) + '\n'


def _nested(settings: Mapping[str, Setting]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, setting in settings.items():
        *path, last = key.split('.')
        place = tree
        for name in path:
            place = place.setdefault(name, {})
        place[last] = setting
    return tree


def _statement(name: str, part: Any, width: int) -> list[str]:
    """Return the lines of ``name = part``."""
    if isinstance(part, Setting):
        line = f'{name} = {_value(part.value)}'
        return _with_comment(line, part.why, width)
    flat = _flat(part)
    if flat is not None and len(f'{name} = {flat[0]}') <= width:
        return _with_comment(f'{name} = {flat[0]}', flat[1], width)
    return _opened(f'{name} = dict(', part, 4, width)


def _explained(name: str, lines: list[str], width: int) -> list[str]:
    """Say where a statement is from, if its first line has room for it."""
    first, *rest = lines
    alias = len(lines) == 1 and '(' not in first
    line = f'{first}  # {_SOURCES.get(name, "")}'
    if '#' in first or alias or name not in _SOURCES or len(line) > width:
        return lines
    return [line, *rest]


def _opened(
    start: str, part: Mapping[str, Any], indent: int, width: int
) -> list[str]:
    """Return a dictionary of several lines.

    The comment of its first value is behind the bracket if it has no
    room behind the value.
    """
    name, first = next(iter(part.items()))
    if isinstance(first, Setting) and first.why:
        line = f'{" " * indent}{name}={_value(first.value)},  # {first.why}'
        opening = f'{start}  # {first.why}'
        if len(line) > width >= len(opening):
            part = {**part, name: Setting(first.value)}
            return [opening, *_body(part, indent, width)]
    return [start, *_body(part, indent, width)]


def _body(part: Mapping[str, Any], indent: int, width: int) -> list[str]:
    """Return the lines inside ``dict(`` and its closing bracket.

    Values without a reason share a line.
    """
    lines: list[str] = []
    pad = ' ' * indent
    shared = False  # whether the last line may take another value
    for number, (name, inner) in enumerate(part.items(), 1):
        end = ')' if number == len(part) else ','
        flat = (
            (_value(inner.value), inner.why)
            if isinstance(inner, Setting)
            else _flat(inner)
        )
        if flat is None or (
            not isinstance(inner, Setting)
            and len(pad + name + flat[0]) + 2 > width
        ):
            body = _opened(f'{pad}{name}=dict(', inner, indent + 4, width)
            body[-1] = _append(body[-1], end)
            lines += body
            shared = False
            continue
        text, why = f'{name}={flat[0]}{end}', flat[1]
        comment = f'  # {why}' if why else ''
        if shared and len(f'{lines[-1]} {text}{comment}') <= width:
            lines[-1] += f' {text}{comment}'
        else:
            lines += _with_comment(f'{pad}{text}', why, width)
        shared = not why and '\n' not in text
    return lines


def _append(line: str, end: str) -> str:
    """Add a bracket or comma to a line before its comment."""
    code, sign, comment = line.partition('  # ')
    return f'{code}{end}{sign}{comment}'


def _flat(part: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return a part on one line and its comment, if one is enough."""
    reasons = [s.why for s in _leaves(part) if s.why]
    if len(reasons) > 1:
        return None
    inner = []
    for name, value in part.items():
        if isinstance(value, Setting):
            inner.append(f'{name}={_value(value.value)}')
        else:
            below = _flat(value)
            assert below is not None  # has no more comments than its parent
            inner.append(f'{name}={below[0]}')
    return f'dict({", ".join(inner)})', (reasons or [''])[0]


def _leaves(part: Any) -> Iterator[Setting]:
    if isinstance(part, Setting):
        yield part
    else:
        for inner in part.values():
            yield from _leaves(inner)


def _value(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, Mapping):
        inner = ', '.join(f'{k}={_value(v)}' for k, v in value.items())
        return f'dict({inner})'
    if isinstance(value, list):
        return f'[{", ".join(map(_value, value))}]'
    if isinstance(value, tuple):
        comma = ',' if len(value) == 1 else ''
        return f'({", ".join(map(_value, value))}{comma})'
    return repr(value)


def _with_comment(text: str, why: str, width: int) -> list[str]:
    """Put a comment behind a line, or above it if it is too long.

    A value of several lines has it behind the first, inside a bracket.
    """
    first, *rest = text.split('\n')
    line = f'{first}  # {why}' if why else first
    if len(line) <= width or not why:
        return [line, *rest]
    pad = ' ' * (len(text) - len(text.lstrip()))
    return [f'{pad}# {why}', first, *rest]
