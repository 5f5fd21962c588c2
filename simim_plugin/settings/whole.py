"""A whole config as the agreements see it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..geometry import pair
from .parts import Part
from .signatures import default_of

Faults = Iterator[str]

_TRANSFORM = re.compile(
    r'((?:train|val|test|test_cfg\.train)_dataloader\.dataset\.(?:.+\.)?'
    r'pipeline)\.\d+'
)


@dataclass
class Whole:
    """A whole config: its settings and its parts."""

    settings: Mapping
    parts: list[Part]

    def named(self, *names: str, below: str = '') -> list[Part]:
        """Return the parts of some classes, or of classes that inherit."""
        return [
            part
            for part in self.parts
            if part.path.startswith(below) and {*names} & {*part.names}
        ]

    def at(self, path: str) -> Part | None:
        """Return the part at a path."""
        return next((p for p in self.parts if p.path == path), None)

    def each(self, path: str) -> list[Part]:
        """Return the part at a path, or the parts of a list there."""
        listed = re.compile(rf'{re.escape(path)}(\.\d+)?')
        return [part for part in self.parts if listed.fullmatch(part.path)]

    def pipelines(self) -> dict[str, list[Part]]:
        """Return the transforms of each data set by the path of the list.

        If a data set wraps another, the outer pipeline counts, since a model
        gets its images.
        """
        found: dict[str, list[Part]] = {}
        for part in self.parts:
            match = _TRANSFORM.fullmatch(part.path)
            if match is not None:
                found.setdefault(match[1], []).append(part)
        owners = [path.removesuffix('pipeline') for path in found]
        return {
            path: steps
            for path, steps in found.items()
            if not any(
                path.startswith(owner) and path != f'{owner}pipeline'
                for owner in owners
            )
        }

    @cached_property
    def encoder(self) -> Encoder | None:
        """The backbone, if it is a ViT of a known kind."""
        whole = encoder_of(self.at('model.backbone'))
        return whole or encoder_of(self.at('model.backbone.module'))

    @property
    def target_grid(self) -> Sequence[int] | None:
        """Rows and columns of a target view of another size, if any."""
        neck = self.at('model.neck')
        return neck.get('target_grid') if neck is not None else None


@dataclass(frozen=True)
class Encoder:
    """The sizes of a ViT.

    Args:
        part (Part): its settings.
        dims (int): channels.
        layers (int): blocks.
        heads (int): attention heads.
        image (tuple[int, int]): height and width of the images, pixels.
        patch (tuple[int, int]): height and width of a patch, pixels.
    """

    part: Part
    dims: int
    layers: int
    heads: int
    image: tuple[int, int]
    patch: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return (
            self.image[0] // self.patch[0],
            self.image[1] // self.patch[1],
        )


def value_of(part: Part, name: str) -> Any:
    """Return a setting, or the default of its class."""
    return part.get(name, default_of(part.made, name) if part.made else None)


def encoder_of(part: Part | None) -> Encoder | None:
    """Return the sizes of a ViT of ours or MMPretrain's, else None."""
    if part is None or part.made is None:
        return None
    ours = {'SiameseIMViTDet', 'PlainViT'}
    stock = {'VisionTransformer', 'MAEViT'} & {*part.names[:2]}
    zoo = getattr(part.made, 'arch_zoo', None)
    if zoo is None or not (stock or ours & {*part.names}):
        return None
    given: Any = value_of(part, 'arch')
    if isinstance(given, str):
        given = zoo.get(given.lower())
    if given is None:
        return None
    dims, layers, heads = (
        given.get(name) for name in ('embed_dims', 'num_layers', 'num_heads')
    )
    sizes = [value_of(part, name) for name in ('img_size', 'patch_size')]
    if not all(isinstance(n, int) for n in (dims, layers, heads)) or not all(
        isinstance(size, int | Sequence) for size in sizes
    ):
        return None
    image, patch = map(pair, sizes)
    return Encoder(part, dims, layers, heads, image, patch)


def differs(
    one: str, first: Any, other: str, second: Any, why: str = ''
) -> Faults:
    """Yield the fault of two settings that must be equal."""
    if first is not None and second is not None and first != second:
        yield (
            f'{one} is {first} and {other} is {second}; set both to the same'
            f'{why}.'
        )
