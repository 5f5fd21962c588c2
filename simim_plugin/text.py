"""Show names that others chose in one safe line, and lengths of time."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

# Control characters, which move the cursor, colour the terminal or begin a
# line; line separators; characters that reverse the text after them; and
# surrogates, which stand for undecodable bytes and cannot be printed.
_HIDDEN = re.compile(
    '[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)
_COLOUR = re.compile(r'\x1b\[[\d;]*m')


ESTIMATE = 'An iteration takes'
"""How the line with the time of a run begins."""


def clean(text: object) -> str:
    r"""Write control characters as ``\n``, ``\x1b`` and so on: one line.

    Args:
        text (object): converted by ``str``.
    """
    return _HIDDEN.sub(
        lambda found: found[0].encode('unicode_escape').decode(), str(text)
    )


def in_markup(text: object) -> str:
    """Clean a text for rich, which would take ``[/b]`` for an instruction."""
    from rich.markup import escape  # no command needs rich at its start

    return escape(clean(text))


def in_plot(text: object) -> str:
    """Clean a text for matplotlib, which would read ``$`` as mathematics."""
    return clean(text).replace('$', r'\$')


def without_colour(line: str) -> str:
    """Return a line of a log, cleaned, without the colours of its level."""
    return clean(_COLOUR.sub('', line))


def some(names: Iterable[object]) -> str:
    """List the first three names."""
    words = [str(name) for name in names]
    return ', '.join(words[:3]) + (', ...' if len(words) > 3 else '')


def markdown_table(rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown; the first row is its head."""
    lines = [[*map(str, row)] for row in rows]
    text = [f'| {" | ".join(cells)} |' for cells in lines]
    text.insert(1, '|---' * len(lines[0]) + '|')
    return '\n'.join(text)


def on_terminal() -> bool:
    """Return whether a bar can be drawn: rich leaves empty lines in files."""
    return sys.stdout.isatty()


def in_words(seconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    for unit, name in ((86400, 'days'), (3600, 'hours'), (60, 'minutes')):
        if seconds >= 2 * unit:
            return f'{seconds / unit:.0f} {name}'
    return f'{seconds:.0f} seconds'
