"""Algorithms that differ from Siamese Image Modeling in one point.

Shape key: B batch, N patches, V visible patches, K predicted target patches,
R x C rows and columns of patches, D channels, p x q patch size in pixels,
F channels of an image, P = F p q values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from ..datasets.collating import PairSamples, visible_patches
from ..errors import SimimError
from ..models.positions import scaled_table
from ..models.siamese_im import SiameseIM, to_device


@MODELS.register_module()
class PixelSiameseIM(SiameseIM):
    """Predict the pixels of the target view, without a target branch.

    The neck is a :class:`PixelDecoder` whose ``out_dims`` are the values P of
    a patch. The loss norm of the head normalises the pixels of each patch.

    Args:
        **kwargs: see :class:`SiameseIM`.

    Raises:
        SimimError: if the neck predicts another number of values.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        del self.target
        patches = self.backbone.patch_embed.projection
        self.patch_size = patches.kernel_size
        pixels = patches.in_channels * prod(self.patch_size)
        if self.neck.predict.out_features != pixels:
            raise SimimError(
                f'A patch has {pixels} pixel values and the neck predicts '
                f'{self.neck.predict.out_features}; give the neck '
                f"type='PixelDecoder' and out_dims={pixels}."
            )

    @torch.no_grad()
    def encode_target(self, view: Tensor) -> Tensor:
        """Return the pixels (B, N, P) of a view (B, F, H, W)."""
        p, q = self.patch_size
        patches = view.unfold(2, p, p).unfold(3, q, q)  # (B, F, R, C, p, q)
        return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)

    def update_target(self, momentum: float) -> None:
        """Do nothing: there is no target branch."""


@MODELS.register_module()
class SymmetricSiameseIM(SiameseIM):
    """Predict each view from the other and average the two losses.

    Both directions use the same mask, each on its own online view.
    """

    def loss(
        self,
        inputs: Sequence[Tensor],
        data_samples: Sequence[DataSample] | PairSamples,
    ) -> dict[str, Tensor]:
        """Compute the mean loss of both directions."""
        if not isinstance(data_samples, PairSamples):
            data_samples = PairSamples.of(data_samples)
        there = super().loss(inputs, data_samples)
        back = super().loss(inputs[::-1], data_samples.swapped())
        return {name: (there[name] + back[name]) / 2 for name in there}


@MODELS.register_module()
class PartialTargetSiameseIM(SiameseIM):
    """Predict only some patches of the target view, to save time.

    Each data sample carries ``target_tokens``, (N,), True on the K patches
    to predict. K is the same for all images.

    Args:
        see_whole (bool): the target branch encodes the whole view, so the
            targets equal the method's. If False, it encodes only the K
            patches, which saves more. Defaults to True.
        **kwargs: see :class:`SiameseIM`.
    """

    def __init__(self, see_whole: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.see_whole = see_whole

    def loss(
        self,
        inputs: Sequence[Tensor],
        data_samples: Sequence[DataSample] | PairSamples,
    ) -> dict[str, Tensor]:
        """Compute the loss of one step over the K patches."""
        online_view, target_view = inputs
        if not isinstance(data_samples, PairSamples):
            data_samples = PairSamples.of(data_samples)
        visible, geometry = self._collate(data_samples)
        chosen = visible_patches(
            [~torch.as_tensor(t) for t in data_samples.field('target_tokens')]
        )
        chosen = to_device(chosen, visible.device)  # (B, K)
        online = self.backbone(online_view, visible)
        online = self.projector(online)  # (B, E + V, D)
        prediction = self.neck(
            online, visible, geometry, chosen, self._grids(inputs)
        )
        target = self.encode_part(target_view, chosen)  # (B, K, D)
        return self.head.loss(prediction, target)

    @torch.no_grad()
    def encode_part(self, view: Tensor, chosen: Tensor) -> Tensor:
        """Return target features (B, K, D) of the patches ``chosen``."""
        if self.see_whole:
            whole = self.encode_target(view)  # (B, N, D)
            return whole.take_along_dim(chosen[..., None], dim=1)
        tokens = self.target['backbone'](view, chosen)
        return self.target['projector'](tokens)[:, self._extra :]


@MODELS.register_module()
class SmallTargetSiameseIM(SiameseIM):
    """Encode a target view of fewer pixels, to save time.

    ``target_grid`` of the neck is the grid of the target view. Target
    positions are in units of online patches, as in the relative embedding: a
    point of a view has the same position in both branches. Rotary positions
    follow the grid of the view.

    Args:
        **kwargs: see :class:`SiameseIM`.

    Raises:
        SimimError: if the backbone has a relative bias, which has one grid,
            or trains its positions.
    """

    target_positions: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.backbone.bias_index is not None:
            raise SimimError(
                'The relative_bias of model.backbone has the grid of the '
                'online view, and SmallTargetSiameseIM encodes a target of '
                'another grid; remove it, or use SiameseIM.'
            )
        positions = self.backbone.pos_embed
        if positions is not None and positions.requires_grad:
            raise SimimError(
                'SmallTargetSiameseIM has fixed positions of its target, and '
                'train_positions of model.backbone would change those of the '
                'online view alone; remove it, or use SiameseIM.'
            )
        table = scaled_table(
            self.neck.target_grid, self.neck.grid, self.backbone.embed_dims
        )
        self.register_buffer(
            'target_positions', table.float(), persistent=False
        )

    def init_weights(self) -> None:
        """Initialise as SiameseIM.

        Raises:
            SimimError: if ``pretrained`` has another table of positions.
        """
        super().init_weights()
        vit = self.backbone
        if vit.pos_embed is None:
            return
        table = vit.pos_embed[:, vit.table_extra :]
        grid = vit.patch_resolution
        known = scaled_table(grid, grid, vit.embed_dims).to(table)
        if not torch.allclose(table, known, rtol=0, atol=0.01):
            raise SimimError(
                'The backbone has read a table of positions that is not the '
                'sin-cos one, and SmallTargetSiameseIM computes that one for '
                'its target; start from another file, or use SiameseIM.'
            )

    @torch.no_grad()
    def encode_target(self, view: Tensor) -> Tensor:
        """Return target features (B, N, D) of a whole view (B, 3, H, W)."""
        (tokens,) = self.target['backbone'](
            view, positions=self.target_positions
        )
        return self.target['projector'](tokens)[:, self._extra :]
