"""The backbone: a plain ViT that can leave masked patches out.

Shape key: B batch, N patches, V visible patches, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..checkpoint import fill_pretrained, refuse_unpickling
from .positions import absolute_table


def init_linear_xavier(module: nn.Module) -> None:
    """Give every linear map Xavier-uniform weights and a zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@MODELS.register_module()
class SiameseIMViT(VisionTransformer):
    """MMPretrain's ViT with fixed sin-cos positions, on visible patches.

    Args:
        train_patch_embed (bool): whether the patch embedding is trained.
            The method keeps its random initialisation frozen throughout
            pretraining (it stabilises the run); fine-tuning trains it.
            Defaults to False.
        final_norm (bool): LayerNorm after the last block; the method has
            none. Encoders of other methods do: theirs is loaded with it,
            and dropped without. Defaults to False.
        out_type (str): as in
            :class:`mmpretrain.models.VisionTransformer`; 'raw' is
            (B, 1 + N, C), the cls token first. Defaults to 'raw'.
        pretrained (str | dict, optional): file to start from, or the
            arguments of :func:`simim_plugin.checkpoint.load_backbone` as
            ``dict(file=..., branch='target')``. Read without unpickling,
            by ``init_weights``.
        **kwargs: see :class:`mmpretrain.models.VisionTransformer`.
    """

    def __init__(
        self,
        *,
        train_patch_embed: bool = False,
        final_norm: bool = False,
        out_type: str = 'raw',
        pretrained: str | dict | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unpickling('SiameseIMViT', kwargs.get('init_cfg'))
        super().__init__(final_norm=final_norm, out_type=out_type, **kwargs)
        self.pos_embed.requires_grad_(False)
        self.patch_embed.requires_grad_(train_patch_embed)
        self.pretrained = pretrained

    def init_weights(self) -> None:
        """Initialise as the released code does (REFERENCE 1.13), and load.

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
        self,
        images: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Encode images.

        Args:
            images (Tensor): (B, 3, H, W).
            visible (Tensor, optional): (B, V) indices of the patches to
                encode, row-major. All patches if None.

        Returns:
            Tensor | tuple[Tensor, ...]: with ``visible``, the cls token and
            the visible patches after the last block (B, 1 + V, C); without,
            the same output as MMPretrain's ViT.
        """
        if visible is None:
            return super().forward(images)
        patches, _ = self.patch_embed(images)  # (B, N, C)
        patches = patches + self.pos_embed[:, 1:]
        return self.encode(patches.take_along_dim(visible[..., None], dim=1))

    def encode(self, patches: Tensor) -> Tensor:
        """Pass patches (B, V, C) with their positions through the blocks.

        Returns:
            Tensor: (B, 1 + V, C), the cls token first.
        """
        cls_token = self.cls_token + self.pos_embed[:, :1]
        tokens = torch.cat(
            [cls_token.expand(len(patches), -1, -1), patches], dim=1
        )  # (B, 1 + V, C)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.ln1(tokens) if self.final_norm else tokens
