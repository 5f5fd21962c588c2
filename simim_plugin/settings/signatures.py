"""Find the arguments that a registered class or function accepts."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from torch import nn

_READS = ('get', 'pop', 'setdefault')


@cache
def accepted(made: Callable) -> frozenset[str] | None:
    """Return the names of the arguments of a class or function.

    If a constructor only passes its ``**kwargs`` to the next class or reads
    single names of them, the names of both classes count.

    Args:
        made (Callable): class or function.

    Returns:
        frozenset[str] | None: None if it may accept any name.
    """
    if inspect.isclass(made):
        return _of_classes(made.__mro__)
    names, rest = _named(made)
    return None if rest else frozenset(names)


@cache
def read_of(made: Callable) -> frozenset[str] | None:
    """Return the arguments of a class that ignores all others.

    Args:
        made (Callable): class or function.

    Returns:
        frozenset[str] | None: None if its constructor has no ``**kwargs``,
        or uses them.
    """
    owners = getattr(made, '__mro__', ())
    makers = (vars(owner).get('__init__') for owner in owners)
    maker: Any = next(filter(None, makers), None)
    if maker is None or hasattr(maker, '__wrapped__'):
        return None
    names, rest = _named(maker)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(maker)))
    except (OSError, SyntaxError, TypeError):
        return None
    uses = rest in {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    return None if uses or not rest else frozenset(names)


def _of_classes(classes: Sequence[type]) -> frozenset[str] | None:
    for above, owner in enumerate(classes, 1):
        if owner in (nn.Module, object):  # their **kwargs accept nothing
            return frozenset()
        made: Any = vars(owner).get('__init__')
        if made is None:
            if '__new__' in vars(owner):
                return None
            continue
        if hasattr(made, '__wrapped__'):  # a decorator may rename arguments
            return None
        names, rest = _named(made)
        if not rest:
            return frozenset(names)
        read = _read_and_passed_on(made, rest, owner.__name__)
        inherited = _of_classes(classes[above:])
        if read is None or inherited is None:
            return None
        return inherited | names | read
    return frozenset()


def _named(made: Callable) -> tuple[set[str], str]:
    """Return the named arguments, and the name of ``**kwargs`` or ''.

    A callable without signature accepts any name.
    """
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return set(), '?'
    rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    named = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}
    return named - {*rest, 'self'}, rest[0] if rest else ''


def parameter_of(made: Callable, name: str) -> inspect.Parameter | None:
    """Return an argument with its default, None if there is none.

    Args:
        made (Callable): class or function.
        name (str): of the argument.
    """
    makers: list[Any] = [made]
    if inspect.isclass(made):
        makers = [vars(owner).get('__init__') for owner in made.__mro__]
    for maker in filter(None, makers):
        try:
            parameter = inspect.signature(maker).parameters.get(name)
        except (TypeError, ValueError):
            continue
        if parameter is not None:
            return parameter
    return None


def default_of(made: Callable, name: str) -> Any:
    """Return the default of an argument, ``inspect.Parameter.empty`` if none.

    Args:
        made (Callable): class or function.
        name (str): of the argument.
    """
    parameter = parameter_of(made, name)
    return inspect.Parameter.empty if parameter is None else parameter.default


def _read_and_passed_on(
    made: Callable, rest: str, owner: str
) -> set[str] | None:
    """Return the names that a constructor reads from its ``**kwargs``.

    None if it ignores them, or uses them in any other way than to read single
    names and to pass the rest to the next class.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(made)))
    except (OSError, SyntaxError, TypeError):
        return None
    uses = sum(
        isinstance(node, ast.Name) and node.id == rest
        for node in ast.walk(tree)
    )
    known = list(_known_uses(tree, rest, owner))
    if not 0 < uses == len(known):
        return None
    return {name for name in known if name}


def _known_uses(tree: ast.AST, rest: str, owner: str) -> Iterator[str]:
    """Yield the name that each understood use reads, '' for passing on."""

    def is_named(node: ast.AST, name: str) -> bool:
        return isinstance(node, ast.Name) and node.id == name

    def is_rest(node: ast.AST) -> bool:
        return is_named(node, rest)

    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Call(func=ast.Name(id='super'), args=start),
                    attr='__init__',
                )
            ) if not start or is_named(start[0], owner):
                for word in node.keywords:
                    if word.arg is None and is_rest(word.value):
                        yield ''
            case ast.Call(
                func=ast.Attribute(value=value, attr=attr),
                args=[ast.Constant(value=str(name)), *_],
            ) if is_rest(value) and attr in _READS:
                yield name
            case ast.Subscript(
                value=value, slice=ast.Constant(value=str(name))
            ) if is_rest(value):
                yield name
            case ast.Compare(
                left=ast.Constant(value=str(name)), comparators=[value]
            ) if is_rest(value):
                yield name
