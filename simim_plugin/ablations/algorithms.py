"""Siamese Image Modeling with one thing changed, each a class of its own.

Shape key: B batch, N patches, V visible patches, K predicted target patches,
R x C rows and columns of patches, D channels, p side of a patch in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from ..errors import SimimError
from ..models.positions import absolute_table
from ..models.siamese_im import SiameseIM, visible_patches


@MODELS.register_module()
class PixelSiameseIM(SiameseIM):
    """Predict the pixels of the target view; there is no target branch.

    The loss norm of the head normalises the pixels of a patch. The neck is a
    :class:`PixelDecoder` with 3 p^2 ``out_dims``: pixels times colours.

    Args:
        **kwargs: see :class:`SiameseIM`.

    Raises:
        SimimError: if the neck predicts another number of values.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        del self.target
        self.patch_size = self.backbone.patch_embed.projection.kernel_size[0]
        pixels = 3 * self.patch_size**2
        if self.neck.predict.out_features != pixels:
            raise SimimError(
                f'A patch has {pixels} pixel values and the neck predicts '
                f'{self.neck.predict.out_features}; give the neck '
                f"type='PixelDecoder' and out_dims={pixels}."
            )

    @torch.no_grad()
    def encode_target(self, view: Tensor) -> Tensor:
        """Pixels (B, N, 3 p^2) of the patches of a view (B, 3, H, W)."""
        p = self.patch_size
        patches = view.unfold(2, p, p).unfold(3, p, p)  # (B, 3, R, C, p, p)
        return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)

    def update_target(self, momentum: float) -> None:
        """Do nothing: pixels need no network."""


@MODELS.register_module()
class SymmetricSiameseIM(SiameseIM):
    """Predict each view from the other, and take the mean of both losses.

    Both directions hide the same patches of their own online view.
    """

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """One step in both directions; see :meth:`SiameseIM.loss`."""
        there = super().loss(inputs, data_samples)
        back = super().loss(inputs[::-1], [_turned(s) for s in data_samples])
        return {name: (there[name] + back[name]) / 2 for name in there}


def _turned(sample: DataSample) -> DataSample:
    """The sample with the roles of its views swapped."""
    turned = DataSample().set_mask(sample.mask)
    turned.geometry = sample.geometry.inverse()
    return turned


@MODELS.register_module()
class PartialTargetSiameseIM(SiameseIM):
    """Predict a part of the target view's patches, to save time.

    The data samples name it: ``target_tokens``, (N,) with True on the K
    patches to predict, as many in every image.

    Args:
        see_whole (bool): whether the target branch still sees the whole
            view, so that the targets are the method's, or only that part,
            which saves more. Defaults to True.
        **kwargs: see :class:`SiameseIM`.
    """

    def __init__(self, see_whole: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.see_whole = see_whole

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """One step; see :meth:`SiameseIM.loss`."""
        online_view, target_view = inputs
        visible, geometry = self._collate(data_samples)
        chosen = visible_patches(
            [~torch.as_tensor(s.target_tokens) for s in data_samples]
        ).to(visible.device)  # (B, K)
        online = self.backbone(online_view, visible)
        online = self.projector(online)  # (B, 1 + V, D)
        relative = self.neck.relative(geometry)  # (B, N, 2 D)
        relative = relative.take_along_dim(chosen[..., None], dim=1)
        prediction = self.neck.decode(online, visible, relative)
        target = self.encode_part(target_view, chosen)  # (B, K, D)
        return self.head.loss(prediction, target)

    @torch.no_grad()
    def encode_part(self, view: Tensor, chosen: Tensor) -> Tensor:
        """Target features (B, K, D) of patches (B, K) of (B, 3, H, W)."""
        if self.see_whole:
            whole = self.encode_target(view)  # (B, N, D)
            return whole.take_along_dim(chosen[..., None], dim=1)
        tokens = self.target['backbone'](view, chosen)
        return self.target['projector'](tokens)[:, 1:]


@MODELS.register_module()
class SmallTargetSiameseIM(SiameseIM):
    """Show the target branch a view of fewer pixels, to save time.

    The neck is a :class:`SmallTargetDecoder`, whose ``target_grid`` is the
    grid of patches. Positions count in patches of the online grid, as in the
    relative embedding: a place in a view has one position in both branches.
    """

    target_positions: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        table = absolute_table(
            self.neck.target_grid, self.backbone.embed_dims, self.neck.grid
        )
        self.register_buffer(
            'target_positions', table[:, 1:].float(), persistent=False
        )

    @torch.no_grad()
    def encode_target(self, view: Tensor) -> Tensor:
        """Target features (B, N, D) of a whole view (B, 3, H, W)."""
        backbone = self.target['backbone']
        patches, _ = backbone.patch_embed(view)  # (B, N, C)
        tokens = backbone.encode(patches + self.target_positions)
        return self.target['projector'](tokens)[:, 1:]
