"""Hold the first blocks of a ViT while the rest is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from .errors import SimimError


class FrozenStages:
    """A base of ViTs whose ``frozen_stages`` holds all that it names.

    It precedes the library's class among the bases. The parts are found under
    the names that MMPretrain, MMDetection and MMSegmentation give them.
    Frozen parts stay in evaluation mode, so they drop neither paths nor units.
    """

    layers: Any
    training: bool
    frozen_stages = -1

    def freeze(self, stages: int) -> None:
        """Freeze the embedding and the first blocks.

        Args:
            stages (int): -1 for nothing, 0 for the patch embedding, the
                positions and the extra tokens, n for n blocks too. With all
                blocks the norms after them are frozen too.

        Raises:
            SimimError: if there are fewer blocks.
        """
        blocks = len(self.layers)
        if not -1 <= stages <= blocks:
            raise SimimError(
                f'frozen_stages is {stages}, and the backbone has {blocks} '
                f'blocks; set it from -1 (nothing) to {blocks} (all).'
            )
        self.frozen_stages = stages
        for part in self._frozen():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Any:
        """Set the mode of the parts that are not frozen."""
        super().train(mode)  # type: ignore[misc]
        for part in self._frozen():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def _frozen(self) -> Iterator[nn.Module | nn.Parameter]:
        if self.frozen_stages < 0:
            return
        names = ['patch_embed', 'pos_embed', 'cls_token', 'registers']
        names += ['pre_norm', 'drop_after_pos']
        if self.frozen_stages == len(self.layers):
            names += ['ln1', 'ln2']
        for name in names:
            part = getattr(self, name, None)
            if part is not None:
                yield part
        yield from self.layers[: self.frozen_stages]
