"""The encoder that a config starts from, or begins with nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import read_weights
from ..checkpoint.families import PLAIN, Family, described
from ..errors import SimimError
from ..vit.arches import ARCHES, MICRO, arch_name, known_encoder
from ..vit.norm import FINAL_NORM
from .written import Written

SIZES = ('tiny', 'small', 'base', 'large', 'huge')
"""Encoders of the packaged configs."""

WIDTHS = {name: arch['embed_dims'] for name, arch in ARCHES.items()} | {
    'micro': MICRO.width
}
"""Channels of a token by the name of the encoder."""


@dataclass(frozen=True)
class Encoder:
    """A ViT and, if there is one, the file of its weights.

    Args:
        file (str, optional): its weights; None starts from nothing.
        branch (str): of a file with two encoders.
        options (dict[str, Any]): of a backbone; ``arch`` is a dictionary.
        family (Family): how its authors read it.
        about (str): one line for the user.
        size (str): its size in a few words.
    """

    file: str | None
    branch: str
    options: dict[str, Any]
    family: Family
    about: str
    size: str = ''

    @property
    def arch(self) -> dict[str, int]:
        """Width, blocks, heads and hidden channels."""
        return self.options['arch']

    @property
    def name(self) -> str | None:
        """The name of its arch, None if it has none."""
        return arch_name(self.arch)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.arch['embed_dims']

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.arch['num_layers']

    @property
    def sizes(self) -> tuple[int, int]:
        """Width and depth."""
        return self.width, self.depth

    @property
    def patch(self) -> int:
        """Side of a patch, pixels."""
        return self.options['patch_size']

    def pretrained(self, channels: int) -> Any:
        """Return the value of ``pretrained`` in a config.

        Args:
            channels (int): of the pictures.
        """
        options: dict[str, Any] = {}
        if self.branch != 'online':
            options['branch'] = self.branch
        if channels > 3 and channels != self.options.get('in_channels', 3):
            options['channels'] = 'repeat'
        if self.file is None or not options:
            return self.file
        return dict(file=self.file, **options)

    def set_statistics(self, out: Written, channels: int) -> None:
        """Set mean and std of the preprocessor, if a plain ViT has others.

        Args:
            out (Written): is changed.
            channels (int): of the pictures. Above 3 no family has values, so
                levels from 0 to 255 become -1 to 1, unless the file states
                its own.
        """
        family, count = self.family, len(self.family.mean)
        other = (family.mean, family.std) != (PLAIN.mean, PLAIN.std)
        for key, values in (('mean', family.mean), ('std', family.std)):
            name = f'model.data_preprocessor.{key}'
            if channels > 3 and channels != count:
                out.set(
                    name, [127.5] * channels, 'levels 0 to 255 become -1 to 1'
                )
            elif other and count in (3, channels):
                out.set(name, [*values])

    def changes(
        self, backbone: Mapping[str, Any], final_norm: bool = True
    ) -> dict[str, Any]:
        """Return the options that a backbone of a config does not have.

        Args:
            backbone (Mapping[str, Any]): its settings.
            final_norm (bool): with those of the final norm. Defaults to True.
        """
        options: dict[str, Any] = {
            name: value
            for name, value in self.options.items()
            if name not in ('arch', 'patch_size', 'norm_cfg')
            and (final_norm or name not in FINAL_NORM)
        }
        known = backbone.get('arch')
        if self.name is None:
            options['arch'] = dict(self.arch, _delete_=True)
        elif self.name != known:
            options['arch'] = self.name
        if self.patch != backbone.get('patch_size'):
            options['patch_size'] = self.patch
        norm = self.options.get('norm_cfg')
        if norm is not None and norm['eps'] != 1e-6:
            options['norm_cfg'] = dict(norm)
        return options


def check_encoder(encoder: Encoder, using: str | None) -> None:
    """Refuse to use features that no encoder has learned.

    Args:
        encoder (Encoder): to start from.
        using (str, optional): the option or method that uses them.

    Raises:
        SimimError: if it begins with nothing.
    """
    if encoder.file is None and using:
        raise SimimError(
            f'{using} uses the features of an encoder as they are, and a '
            'new one has none; name its weights by --encoder, or leave '
            f'{using} out.'
        )


def no_encoder(arch: str) -> Encoder:
    """Return an encoder of patches of 16 px that begins with nothing.

    Args:
        arch (str): one of ``SIZES``.
    """
    if arch not in SIZES:
        raise SimimError(
            f'There is no arch {arch!r}; set --arch to one of '
            f'{", ".join(SIZES)}.'
        )
    options = dict(arch=dict(ARCHES[arch]), patch_size=16)
    return Encoder(None, 'online', options, PLAIN, f'a new ViT of arch {arch}')


def read_encoder(
    file: str, branch: str = 'online', num_heads: int | None = None
) -> Encoder:
    """Read the sizes and the family of a file of weights.

    Args:
        file (str): see :func:`simim_plugin.checkpoint.read_weights`.
        branch (str): 'online' or 'target', of a file with two encoders.
        num_heads (int, optional): if nothing in the file gives them.

    Raises:
        CheckpointError: if the file cannot be read or is no plain ViT.
    """
    weights = read_weights(file, branch)
    options = weights.options(num_heads)
    width, depth, patch = weights.shape()
    known = known_encoder(width, depth)
    size = f'ViT-{known.name}' if known else f'a ViT of {width} channels'
    about = (
        f'{size} with patches of {patch} px from {Path(file).name} '
        f'({described(weights.family)})'
    )
    path = str(Path(file).absolute())
    return Encoder(path, branch, options, weights.family, about, size)
