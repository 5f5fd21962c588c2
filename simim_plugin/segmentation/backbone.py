"""The ViT backbone of UPerNet.

Shape key: B batch, T tokens, C channels, H heads, h x w patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from mmpretrain.models import VisionTransformer
from mmseg.models.backbones import MAE
from mmseg.models.backbones.mae import MAEAttention
from mmseg.registry import MODELS
from torch import Tensor

from ..checkpoint import fill_pretrained, refuse_init_cfg
from ..errors import SimimError
from ..freezing import FrozenStages
from ..models.positions import absolute_table

NEW = (
    'relative_position_bias_table',
    'relative_position_index',
    'gamma_1',
    'gamma_2',
)
"""Parameters of a block that a pretrained encoder lacks."""


class RelativeBiasAttention(MAEAttention):
    """MMSegmentation's attention with relative position bias, fused."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend from (B, T, C) to (B, T, C)."""
        batch, count, channels = tokens.shape
        query, key, value = (
            self.qkv(tokens)
            .view(batch, count, 3, self.num_heads, -1)
            .permute(2, 0, 3, 1, 4)
        )  # (B, H, T, C / H) each
        index = self.relative_position_index.flatten()
        bias = self.relative_position_bias_table.T[:, index]  # (H, T x T)
        tokens = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias.view(1, -1, count, count).to(query.dtype),
        )  # (B, H, T, C / H)
        tokens = tokens.transpose(1, 2).reshape(batch, count, channels)
        return self.proj_drop(self.proj(tokens))


@MODELS.register_module()
class SiameseIMSegViT(FrozenStages, MAE):
    """MMSegmentation's ``MAE`` backbone, filled by this package's loader.

    A ViT with a relative position bias and LayerScale in every block, for
    images of one size. It differs from ``MAE`` in three ways: it loads every
    format that :func:`simim_plugin.checkpoint.load_backbone` knows and
    interpolates the positions; its attention is fused; and its positions
    start as the sin-cos table instead of zeros.

    Args:
        pretrained (str | dict, optional): file to start from, or the
            arguments of ``load_backbone`` as ``dict(file=...,
            branch='target')``. ``init_weights`` reads it without unpickling.
            If the file lacks them, the bias stays at 0 and LayerScale at
            ``init_values``.
        frozen_stages (int): as in
            :class:`simim_plugin.models.SiameseIMViT`. Defaults to -1.
        init_values (float): LayerScale at the start. Defaults to 1.
        init_cfg (dict, optional): as in MMEngine, but not 'Pretrained'.
        **kwargs: see :class:`mmseg.models.MAE`.

    Raises:
        SimimError: for an ``init_cfg`` of type 'Pretrained'.
    """

    num_extra_tokens = 1

    def __init__(
        self,
        *,
        pretrained: str | Mapping[str, Any] | None = None,
        frozen_stages: int = -1,
        init_values: float = 1.0,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_init_cfg('SiameseIMSegViT', init_cfg)
        super().__init__(init_values=init_values, init_cfg=init_cfg, **kwargs)
        self.pretrained = pretrained
        self.patch_resolution = self.patch_shape
        self.freeze(frozen_stages)

    def _build_layers(self) -> None:
        """Build the blocks of the base class with fused attention."""
        super()._build_layers()
        for layer in self.layers:
            stock = layer.attn
            layer.attn = RelativeBiasAttention(
                stock.embed_dims, stock.num_heads, stock.window_size, True
            )

    def init_weights(self) -> None:
        """Initialise as in MMSegmentation, then load ``pretrained``.

        Raises:
            CheckpointError: if ``pretrained`` is unsafe or does not fit.
        """
        super().init_weights()
        table = absolute_table(self.patch_shape, self.embed_dims)
        self.pos_embed.data.copy_(table)
        if self.pretrained is not None:
            fill_pretrained(self, self.pretrained, stays_new=NEW)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return features (B, C, h, w) of the blocks in ``out_indices``.

        Raises:
            SimimError: for images of another size.
        """
        if images.shape[2:] != tuple(self.img_size):
            wanted, given = (
                ' x '.join(map(str, size))
                for size in (self.img_size, images.shape[2:])
            )
            raise SimimError(
                f'The backbone is built for images of {wanted} pixels and '
                f'was given {given}; set img_size of model.backbone, size '
                'of model.data_preprocessor and its test_cfg, and crop_size '
                'of model.test_cfg to the same.'
            )
        return super().forward(images)

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """Return the depth of a parameter and the number of depths.

        Layer-wise lr decay uses them as in MMPretrain's
        ``VisionTransformer``: 0 is the patch embedding, the last follows the
        blocks.
        """
        return VisionTransformer.get_layer_depth(self, param_name, prefix)
