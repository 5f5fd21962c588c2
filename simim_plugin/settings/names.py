"""The names at the top level of a config, and those without an effect."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner

RUNNER = frozenset(inspect.signature(Runner.__init__).parameters) - {'self'}
"""Arguments of mmengine's Runner."""

_TOP_LEVEL = (RUNNER - {'cfg'}) | {
    *('runner_type', 'model_wrapper_cfg', 'sync_bn', 'compile'),
    *('find_unused_parameters', 'activation_checkpointing'),
    *('efficient_conv_bn_eval', 'custom_imports'),
    *('tta_model', 'tta_pipeline', 'img_size'),
}
"""Names that mmengine's Runner, ours or a script of OpenMMLab reads."""


def nearest(name: str, known: Iterable[str], otherwise: str = '') -> str:
    """Return the advice to use the nearest known name, as a clause."""
    known = sorted({*known})
    close = difflib.get_close_matches(name, known, 3, 0.6)
    if not close:
        lower = {k.lower(): k for k in known}
        close = [
            lower[k]
            for k in difflib.get_close_matches(name.lower(), lower, 3, 0.6)
        ]
    if close:
        return f'did you mean {" or ".join(close)}?'.rstrip('?')
    return otherwise or 'correct the name, or import what registers it'


def unread_names(
    settings: Mapping, text: str, keys: Mapping[str, Iterable[str]]
) -> Iterator[str]:
    """Warn about names that nothing reads.

    A config file may name its parts, so a name that the files use again is
    left alone. The config that a run writes has such parts twice: by their
    names and where they are used.

    Args:
        settings (Mapping): of a Runner.
        text (str): the config files.
        keys (Mapping[str, Iterable[str]]): names that dictionaries of the
            config have, to be proposed.

    Yields:
        str: a sentence for each name.
    """
    for name in settings.keys() - _TOP_LEVEL:
        owner = next((k for k, v in keys.items() if name in v), '')
        start = '^' if owner else r'\b'
        uses = len(re.findall(rf'{start}{re.escape(name)}\b', text, re.M))
        close = difflib.get_close_matches(name, _TOP_LEVEL, 1, 0.8)
        slip = uses < 2 and close and not _is_used(settings[name], settings)
        if (uses == 0 and text) or slip:
            yield (
                f'Nothing reads the setting {name}; '
                + (
                    f'did you mean {owner}.{name}.'
                    if owner
                    else f'{nearest(name, _TOP_LEVEL, "remove it")}.'
                )
            )


def _is_used(value: Any, settings: Mapping) -> bool:
    """Return whether a dictionary or a list is a part of what is read."""
    if not value or not isinstance(value, Mapping | list | tuple):
        return False
    read = [settings[name] for name in _TOP_LEVEL & settings.keys()]
    return any(_holds(part, value) for part in read)


def _holds(whole: Any, value: Any) -> bool:
    """Return whether a value is in nested dictionaries and lists."""
    if whole == value:
        return True
    inner = whole.values() if isinstance(whole, Mapping) else whole
    nested = isinstance(whole, Mapping | list | tuple)
    return nested and any(_holds(part, value) for part in inner)


def changed_too_late(config: Config) -> Iterator[str]:
    """Warn about names that change after the files have used them.

    A config file may name its parts, ``mask = dict(...)``, and use the name
    in a pipeline. MMEngine evaluates each file once, so that a change of
    ``mask`` by an option, a script or a file that inherits it does not reach
    the pipeline.

    Args:
        config (Config): after all changes; one that comes from no file, or
            from a JSON or YAML file, is not compared.

    Yields:
        str: a sentence for each name.
    """
    files = _files(config.text)
    read = _read_again(config)
    for name in sorted(config.keys() - _TOP_LEVEL):
        place = _place_of(config[name], config)
        file = _last_unused(name, files)
        if name in read and repr(read[name]) != repr(config[name]):
            yield (
                f'The change of {name} by an option or a script has no '
                f'effect, since the config files have used {name} already; '
                f'change the setting where it is used{place and f", {place}"}.'
            )
        elif file:
            yield (
                f'The change of {name} in {file} has no effect, since only '
                f'files that it inherits use {name}; use {name} in this file, '
                f'too, or change the setting where it is used'
                f'{place and f", {place}"}.'
            )


class _File(NamedTuple):
    """A config file, the values that its names get, and names in use."""

    name: str
    assigned: Mapping[str, str]
    used: frozenset[str]
    used_of_bases: frozenset[str]


def _last_unused(name: str, files: list[_File]) -> str:
    """Return the last file that assigns a name anew if only others use it."""
    places = [i for i, file in enumerate(files) if name in file.assigned]
    values = [files[i].assigned[name] for i in places[-2:]]
    if len({*values}) < 2:
        return ''  # assigned once, or the same again
    before = files[: places[-1]]
    last, *after = files[places[-1] :]
    if not any(name in f.used | f.used_of_bases for f in before):
        return ''  # only other configs use it, as those of the rivals
    used = name in last.used or any(name in f.used_of_bases for f in after)
    return '' if used else last.name


def _place_of(value: Any, config: Config) -> str:
    """Return the path of the first part of the type of a value, or ''."""
    kind = value.get('type') if isinstance(value, Mapping) else None
    if kind is None:
        return ''
    found = (
        place
        for name in sorted(config.keys() & _TOP_LEVEL)
        for place in _places(config[name], name)
        if place[1] == kind
    )
    return next(found, ('',))[0]


def _places(settings: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the type of each dictionary."""
    if isinstance(settings, Mapping):
        yield path, settings.get('type')
        inner: Iterable = settings.items()
    elif isinstance(settings, (list, tuple)):
        inner = enumerate(settings)
    else:
        return
    for key, value in inner:
        yield from _places(value, f'{path}.{key}')


def _files(text: str) -> list[_File]:
    """Read the files in the text of a config, the inherited ones first.

    MMEngine puts the path of each above it, in a line of its own.
    """
    _, *parts = re.split(r'^(/.*\.py)\n', text or '', flags=re.M)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of files of other libraries
        try:
            return [
                _names_of(Path(path).name, ast.parse(source))
                for path, source in zip(parts[::2], parts[1::2], strict=True)
            ]
        except SyntaxError:
            return []


def _names_of(name: str, tree: ast.Module) -> _File:
    nodes = [*ast.walk(tree)]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    return _File(
        name,
        assigned={
            target.id: ast.dump(node.value)
            for node in nodes
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        },
        used=frozenset(n.id for n in names if isinstance(n.ctx, ast.Load)),
        used_of_bases=frozenset(
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == '_base_'
        ),
    )


def _read_again(config: Config) -> Mapping:
    """Return the config as its files have it, empty if they have changed."""
    file = config.filename
    if not file or not Path(file).is_file():
        return {}
    try:
        read = Config.fromfile(file, import_custom_modules=False)
    except Exception:  # a file may do anything, and has been read before
        return {}
    return dict(read.items()) if read.text == config.text else {}
