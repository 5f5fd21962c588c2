"""Put the operators where ``mmcv.ops`` looks for compiled ones.

``mmcv.ops`` looks each operator up by name in the module ``mmcv._ext``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any, NoReturn

import torch

from . import boxes, deformable, focal, regions

COMPILED = 'mmcv._ext'
"""The module of mmcv's compiled operators."""

NOT_AVAILABLE = 'not available'
"""The CUDA version that mmcv reports of operators built for CPUs alone."""

OPERATORS: dict[str, Callable] = {
    operator.__name__: operator
    for operator in (
        boxes.nms,
        boxes.softnms,
        boxes.nms_match,
        boxes.bbox_overlaps,
        regions.roi_align_forward,
        regions.roi_align_backward,
        regions.roi_pool_forward,
        regions.roi_pool_backward,
        deformable.deform_conv_forward,
        deformable.deform_conv_backward_input,
        deformable.deform_conv_backward_parameters,
        deformable.modulated_deform_conv_forward,
        deformable.modulated_deform_conv_backward,
        deformable.ms_deform_attn_forward,
        deformable.ms_deform_attn_backward,
        focal.sigmoid_focal_loss_forward,
        focal.sigmoid_focal_loss_backward,
        focal.softmax_focal_loss_forward,
        focal.softmax_focal_loss_backward,
    )
}
"""Operators by their names in ``mmcv._ext``."""


class Operators(ModuleType):
    """A stand-in for ``mmcv._ext``; other operators raise an error."""

    def __init__(self) -> None:
        super().__init__(COMPILED, __doc__)
        self.__spec__ = ModuleSpec(COMPILED, None)
        self.__dict__.update(OPERATORS)
        self.get_compiling_cuda_version = lambda: NOT_AVAILABLE
        self.get_compiler_version = lambda: 'none, operators of simim_plugin'

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise NotImplementedError(
                f'The operator {name} of mmcv exists only as a compiled one: '
                f'build them with `{build_command()}`.'
            )

        return missing


def place() -> None:
    """Let ``mmcv.ops`` use our operators if mmcv has no usable ones.

    Modules whose earlier import of ``mmcv.ops`` failed receive them now.
    """
    if COMPILED in sys.modules or _compiled_are_usable():
        return
    sys.modules[COMPILED] = Operators()
    _repair([m for name, m in sys.modules.items() if name.startswith('mm')])


def build_command() -> str:
    """Return the command that builds mmcv's operators for this torch."""
    name, version, before = 'onedl-mmcv', '', ''
    for candidate in ('onedl-mmcv', 'mmcv', 'mmcv-lite'):
        with suppress(metadata.PackageNotFoundError):
            version = f'=={metadata.version(candidate)}'
            name = candidate.removesuffix('-lite')
            if candidate != name:  # the same files under another name
                before = f'pip uninstall -y {candidate} && '
            break
    # Upstream's setup.py imports pkg_resources.packaging.
    bounds = '>=80,<82' if name == 'onedl-mmcv' else '<70'
    return (
        f'{before}pip install "setuptools{bounds}" wheel packaging ninja '
        'psutil && pip install --no-deps --force-reinstall --no-cache-dir '
        f'--no-build-isolation {name}{version}'
    )


def _compiled_are_usable() -> bool:
    """Return whether mmcv has operators that load and fit this machine."""
    mmcv = importlib.import_module('mmcv')
    if PathFinder.find_spec(COMPILED, mmcv.__path__) is None:
        return False
    try:
        operators = importlib.import_module(COMPILED)
    except (ImportError, OSError) as error:
        reason = f'do not load ({str(error).splitlines()[0]})'
    else:
        if (
            isinstance(operators, Operators)  # from commands.operators
            or operators.get_compiling_cuda_version() != NOT_AVAILABLE
            or not torch.cuda.is_available()
        ):
            return True
        del sys.modules[COMPILED]
        reason = 'are for the CPU alone, and there is a GPU'
    warnings.warn(
        f'The compiled operators of mmcv {reason}; those of simim_plugin are '
        f'used instead. To build them anew: `{build_command()}`.',
        stacklevel=3,
    )
    return False


def _repair(modules: Sequence[ModuleType]) -> None:
    """Give operators to modules that were imported without them.

    The forks import ``mmcv.ops`` in a ``try``. If it fails they define None,
    or functions and classes that raise, which other modules import in turn.
    """
    stand_ins: dict[int, tuple[Any, Any]] = {}  # keeps them and their ids
    for module in modules:
        for line in _guarded_imports(module):
            with suppress(ImportError):
                source = importlib.import_module(str(line.module))
                for imported in line.names:
                    own = imported.asname or imported.name
                    operator = getattr(source, imported.name)
                    stand_in = getattr(module, own, None)
                    if isinstance(stand_in, FunctionType | type):
                        stand_ins[id(stand_in)] = stand_in, operator
                    setattr(module, own, operator)
    for module in modules:
        for name, value in list(vars(module).items()):
            if id(value) in stand_ins:
                setattr(module, name, stand_ins[id(value)][1])


def _guarded_imports(module: ModuleType) -> list[ast.ImportFrom]:
    """Return a module's imports from mmcv inside a ``try``."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return []
    if 'mmcv' not in source:
        return []
    return [
        line
        for block in ast.parse(source).body
        if isinstance(block, ast.Try)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        and (line.module or '').startswith('mmcv')
    ]
