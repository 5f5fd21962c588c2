"""The backbone: a plain ViT with sin-cos positions.

Shape key: B batch, N patches, E extra tokens, C channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

from mmpretrain.registry import MODELS
from torch import nn

from ..checkpoint.loading import fill_pretrained, refuse_init_cfg
from ..freezing import FrozenStages
from ..vit import PlainViT
from .positions import absolute_table


def init_linear_xavier(module: nn.Module) -> None:
    """Give every linear map Xavier-uniform weights and a zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@MODELS.register_module()
class SiameseIMViT(FrozenStages, PlainViT):
    """MMPretrain's ViT with sin-cos positions, on visible patches.

    Args:
        train_patch_embed (bool): train the patch embedding. Pretraining
            freezes it at its random initialisation for stability;
            fine-tuning trains it. Defaults to False.
        train_positions (bool): train the positions, which start as the
            sin-cos table. Defaults to False.
        final_norm (bool): apply LayerNorm after the last block. The method
            has none; encoders of other methods do, and loading one drops
            its norm if this is False. Defaults to False.
        out_type (str): as in
            :class:`mmpretrain.models.VisionTransformer`; 'raw' is
            (B, E + N, C), the cls token first. Defaults to 'raw'.
        frozen_stages (int): number of blocks to hold, with the patch
            embedding, the positions and the extra tokens. Defaults to -1,
            none.
        pretrained (str | dict, optional): file to start from, or arguments
            of :func:`simim_plugin.checkpoint.load_backbone`.
        **kwargs: see :class:`simim_plugin.vit.PlainViT`, which has options
            for the encoders of other methods.
    """

    may_lack: ClassVar[tuple[str, ...]] = ()
    """Endings of the parameters that a file of ``pretrained`` may lack."""

    def __init__(
        self,
        *,
        train_patch_embed: bool = False,
        train_positions: bool = False,
        final_norm: bool = False,
        out_type: str = 'raw',
        frozen_stages: int = -1,
        pretrained: str | dict | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_init_cfg('SiameseIMViT', kwargs.get('init_cfg'))
        super().__init__(final_norm=final_norm, out_type=out_type, **kwargs)
        if self.pos_embed is not None:
            self.pos_embed.requires_grad_(train_positions)
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
        for token in (self.cls_token, self.registers):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        if self.pos_embed is not None:
            rows = self.pos_embed.shape[1]
            table = absolute_table(self.patch_resolution, self.embed_dims)
            self.pos_embed.data.copy_(table[:, -rows:])
        if self.pretrained is not None:
            fill_pretrained(self, self.pretrained, stays_new=self.may_lack)
