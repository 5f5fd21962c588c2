"""Each argument of each registered class of ours is read, or refused."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from mmengine import registry as roots
from mmengine.registry import Registry

import simim_plugin.ablations
import simim_plugin.detection
import simim_plugin.segmentation  # noqa: F401
from simim_plugin.settings.rules import NO_EFFECT, RULES
from simim_plugin.settings.signatures import accepted

# Read by the base class of all of a kind, or by nothing anywhere: what
# mmengine itself offers is left to it.
BY_OTHERS = {
    'CorruptedFolder.filter_cfg',
    'ImageNetA.filter_cfg',
    'ImageNetC.filter_cfg',
    'ImageNetR.filter_cfg',
    'ImageNetSketch.filter_cfg',
    'DistillationHead.num_global',  # its algorithms read it
    'PairDataPreprocessor.colours',  # the training loop reads it
    'WarmupCosineLR.by_epoch',  # convert_to_iter_based and the loop read it
    # The inferencers give LoadArray the settings of LoadImage.
    'LoadArray.color_type',
    'LoadArray.ignore_empty',
    'LoadArray.imdecode_backend',
}


def registered(registry: Registry) -> Iterator[type]:
    for made in registry.module_dict.values():
        if inspect.isclass(made) and made.__module__.startswith('simim_'):
            yield made
    for child in registry.children.values():
        yield from registered(child)


CLASSES = sorted(
    {
        made
        for registry in vars(roots).values()
        if isinstance(registry, Registry)
        for made in registered(registry)
    },
    key=lambda made: made.__qualname__,
)


@cache
def source(function: Callable) -> str:
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    except (OSError, TypeError):  # of a dataclass, or built in
        return ''


@cache
def tree(function: Callable) -> ast.AST:
    return ast.parse(source(function))


@cache
def reads_of(function: Callable) -> frozenset[str]:
    return frozenset(
        node.attr
        for node in ast.walk(tree(function))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


def own_methods(owner: type) -> list[Callable]:
    """Return the methods that a class of ours defines."""
    if not owner.__module__.startswith('simim_'):
        return []
    return [m for m in vars(owner).values() if inspect.isfunction(m)]


def running(made: type) -> list[Callable]:
    """Return the methods that can run.

    Not those that a class overrides, nor private ones that only these call.
    """
    methods = [*not_overridden(made)]
    while True:
        called = frozenset().union(*map(reads_of, methods))
        kept = [
            method
            for method in methods
            if method.__name__ in called or not private(method.__name__)
        ]
        if len(kept) == len(methods):
            return kept
        methods = kept


def plain(method: Callable, name: str) -> Callable:
    """Return a method without its decorators, which may leave no trace."""
    method = inspect.unwrap(method)
    for cell in getattr(method, '__closure__', None) or ():
        inner = cell.cell_contents
        if inspect.isfunction(inner) and inner.__name__ == name:
            return plain(inner, name)
    return method


def private(name: str) -> bool:
    return name.startswith('_') and not name.endswith('__')


def not_overridden(made: type) -> Iterator[Callable]:
    for name in {n for owner in made.__mro__[:-1] for n in vars(owner)}:
        for owner in made.__mro__:
            method: Any = vars(owner).get(name)
            method = getattr(method, '__func__', method)
            if isinstance(method, property):
                method = method.fget
            method = plain(method, name) if callable(method) else None
            if not inspect.isfunction(method):
                continue
            yield method
            above = rf'super\(.*?\)\s*\.{name}\(|\b\w+\.{name}\((self|load)'
            sources = [source(method), *map(source, own_methods(owner))]
            if not any(re.search(above, text, re.S) for text in sources):
                break


def read_attributes(made: type) -> set[str]:
    return {
        name
        for method in running(made)
        if method.__name__ != '__repr__'
        for name in reads_of(method)
    }


def kept_in(maker: ast.AST, name: str) -> set[str] | None:
    """Return the attributes that hold an argument, None if it is used."""

    def loads(node: ast.AST) -> bool:
        return any(
            isinstance(part, ast.Name)
            and part.id == name
            and isinstance(part.ctx, ast.Load)
            for part in ast.walk(node)
        )

    kept: set[str] = set()
    for node in ast.walk(maker):
        if isinstance(node, ast.Assign | ast.AnnAssign) and (
            node.value and loads(node.value)
        ):
            goals = getattr(node, 'targets', None) or [node.target]
            if not all(isinstance(goal, ast.Attribute) for goal in goals):
                return None
            kept |= {goal.attr for goal in goals}
        elif isinstance(node, (ast.Call, ast.If, ast.For, ast.With)):
            parts = [getattr(node, 'test', None), getattr(node, 'iter', None)]
            parts += [*getattr(node, 'args', ())]
            parts += [word.value for word in getattr(node, 'keywords', ())]
            outside = not _stored(maker, node)
            if outside and any(part and loads(part) for part in parts):
                return None
    return kept


def _stored(maker: ast.AST, node: ast.AST) -> bool:
    """Return whether a call only makes what an attribute holds."""
    return any(
        isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Assert))
        and any(part is node for part in ast.walk(statement))
        for statement in ast.walk(maker)
    )


def unread(made: type) -> set[str]:
    """Return the arguments whose values nothing reads."""
    reads, found = read_attributes(made), set()
    known = accepted(made)
    for owner in made.__mro__:
        maker = vars(owner).get('__init__')
        if not inspect.isfunction(inspect.unwrap(maker or object)):
            continue
        body = tree(maker)
        for name in [*inspect.signature(maker).parameters][1:]:
            kept = kept_in(body, name) if source(maker) else {name}
            if kept is None or kept & reads or (known and name not in known):
                continue
            if kept or f' {name}' not in ast.unparse(body).partition(':')[2]:
                found.add(name)
    return found


@pytest.mark.parametrize('made', CLASSES, ids=lambda made: made.__qualname__)
def test_each_argument_is_read_or_refused(made):
    refused = {
        rule.partition('.')[2]
        for rule, what in RULES.items()
        if what is NO_EFFECT
        and rule.partition('.')[0] in {c.__name__ for c in made.__mro__}
    }
    others = {
        name.partition('.')[2]
        for name in BY_OTHERS
        if name.partition('.')[0] == made.__name__
    }
    assert unread(made) <= refused | others


def test_the_search_finds_what_nothing_reads():
    class Stock:
        def __init__(self, used: int, lost: int) -> None:
            self.used = used
            self.lost = lost

        def double(self) -> int:
            return 2 * self.used + self.lost

    class Ours(Stock):
        def double(self) -> int:
            return 2 * self.used

    assert unread(Stock) == set()
    assert unread(Ours) == {'lost'}

    class Parts:
        def __init__(self, used: int, lost: int) -> None:
            self.used: Any = str(used)
            self.lost: Any = str(lost)

        def words(self) -> list[str]:
            return self._both()

        def _both(self) -> list[str]:
            return [self.used, self._last()]

        def _last(self) -> str:
            return self.lost

    class One(Parts):
        def _both(self) -> list[str]:
            return [self.used] * 2

    assert unread(Parts) == set()
    assert unread(One) == {'lost'}
