"""The backbone: a plain ViT that encodes only the visible patches.

Shape key: B batch, N patches, V visible patches, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..checkpoint import fill_pretrained, refuse_init_cfg
from ..freezing import FrozenStages
from .positions import absolute_table


def init_linear_xavier(module: nn.Module) -> None:
    """Give every linear map Xavier-uniform weights and a zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@MODELS.register_module()
class SiameseIMViT(FrozenStages, VisionTransformer):
    """MMPretrain's ViT with fixed sin-cos positions, on visible patches.

    Args:
        train_patch_embed (bool): train the patch embedding. Pretraining
            freezes it at its random initialisation for stability;
            fine-tuning trains it. Defaults to False.
        final_norm (bool): apply LayerNorm after the last block. The method
            has none; encoders of other methods do, and loading one drops
            its norm if this is False. Defaults to False.
        out_type (str): as in
            :class:`mmpretrain.models.VisionTransformer`; 'raw' is
            (B, 1 + N, C), the cls token first. Defaults to 'raw'.
        frozen_stages (int): number of blocks to hold, with the patch
            embedding, the positions and the cls token. Defaults to -1, none.
        pretrained (str | dict, optional): file to start from, or arguments
            of :func:`simim_plugin.checkpoint.load_backbone`.
        **kwargs: see :class:`mmpretrain.models.VisionTransformer`.
    """

    def __init__(
        self,
        *,
        train_patch_embed: bool = False,
        final_norm: bool = False,
        out_type: str = 'raw',
        frozen_stages: int = -1,
        pretrained: str | dict | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_init_cfg('SiameseIMViT', kwargs.get('init_cfg'))
        super().__init__(final_norm=final_norm, out_type=out_type, **kwargs)
        self.pos_embed.requires_grad_(False)
        self.patch_embed.requires_grad_(train_patch_embed)
        self.freeze(frozen_stages)
        self.pretrained = pretrained

    def init_weights(self) -> None:
        """Initialise as in docs/method.md, then load ``pretrained``.

        Raises:
            CheckpointError: if ``pretrained`` is unsafe or does not fit.
        """
        super().init_weights()
        init_linear_xavier(self.layers)
        patches = self.patch_embed.projection.weight
        nn.init.xavier_uniform_(patches.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        table = absolute_table(self.patch_resolution, self.embed_dims)
        self.pos_embed.data.copy_(table)
        if self.pretrained is not None:
            fill_pretrained(self, self.pretrained)

    def forward(
        self, images: Tensor, visible: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Encode images.

        Args:
            images (Tensor): (B, 3, H, W).
            visible (Tensor, optional): (B, V) row-major indices of the
                patches to encode. Defaults to all patches.

        Returns:
            Tensor | tuple[Tensor, ...]: with ``visible``, the cls token and
            the visible patches (B, 1 + V, C); without it, the output of
            MMPretrain's ViT.
        """
        if visible is None:
            return super().forward(images)
        patches, _ = self.patch_embed(images)  # (B, N, C)
        patches = patches + self.pos_embed[:, 1:]
        return self.encode(patches.take_along_dim(visible[..., None], dim=1))

    def encode(self, patches: Tensor) -> Tensor:
        """Encode patches (B, V, C) with positions to (B, 1 + V, C)."""
        cls_token = self.cls_token + self.pos_embed[:, :1]
        tokens = torch.cat(
            [cls_token.expand(len(patches), -1, -1), patches], dim=1
        )  # (B, 1 + V, C)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.ln1(tokens) if self.final_norm else tokens
