"""Bound the cost of a file by its size."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..errors import SimimError


class CheckpointError(SimimError):
    """A checkpoint that cannot be read, or does not fit the model."""


class Limits:
    """Bound what reading a file costs, by its size.

    Args:
        size (int): bytes of the file.
    """

    STEPS = 2_000_000
    """Opcodes. A checkpoint of MMEngine has fewer than 100,000."""
    DEPTH = 100
    """Containers inside each other."""
    SHARED = 64
    """Bytes of tensors that view one byte of the file. Layers that share their
    weights share their bytes."""
    COPIED = 8
    """Bytes of arrays and of text, and parts of containers, that one byte of
    the file may produce."""

    def __init__(self, size: int) -> None:
        self._left = dict(
            steps=self.STEPS,
            tensors=self.SHARED * size,
            copies=self.COPIED * size + 4096,
        )
        self._parts = self.COPIED * size + 4096

    def spend(self, name: str, cost: int) -> None:
        """Count a cost: 'steps', or bytes of 'tensors' or of 'copies'.

        Raises:
            CheckpointError: if the file costs more than its size allows.
        """
        self._left[name] -= cost
        if self._left[name] < 0:
            raise CheckpointError(f'it holds more {name} than its size allows')

    def check_nesting(self, content: Any) -> None:
        """Check the depth and the number of parts of nested containers.

        A part in two places counts twice, since a print or a copy of the
        content holds it twice.

        Raises:
            CheckpointError: if a container holds itself, is too deep, or has
                more parts than the size of the file allows.
        """
        measured: dict[int, tuple[int, int]] = {}  # depth and parts
        begun: set[int] = set()
        stack = [content]
        while stack:
            node = stack[-1]
            if id(node) in measured:
                stack.pop()
                continue
            inside = [part for part in _parts(node) if _is_container(part)]
            waiting = [part for part in inside if id(part) not in measured]
            if not waiting:
                measured[id(node)] = self._measure(node, inside, measured)
            elif id(node) in begun:
                raise CheckpointError('a container holds itself')
            begun.add(id(node))
            stack += waiting

    def _measure(
        self,
        node: Any,
        inside: list[Any],
        measured: dict[int, tuple[int, int]],
    ) -> tuple[int, int]:
        depth, parts = 1, 0
        for part in _parts(node):
            parts += len(part) if isinstance(part, (str, bytes)) else 1
        for part in inside:
            below, more = measured[id(part)]
            depth, parts = max(depth, below + 1), parts + more
        if depth > self.DEPTH:
            raise CheckpointError(
                f'it nests more than {self.DEPTH} containers'
            )
        if parts > self._parts:
            raise CheckpointError('it holds more parts than its size allows')
        return depth, parts


def _is_container(part: Any) -> bool:
    return isinstance(part, (dict, list, tuple, argparse.Namespace))


def _parts(node: Any) -> Sequence[Any]:
    if isinstance(node, argparse.Namespace):
        node = vars(node)
    if isinstance(node, dict):
        return [*node.values(), getattr(node, '_metadata', None)]
    return node if isinstance(node, (list, tuple)) else ()
