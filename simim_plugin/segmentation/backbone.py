"""The ViT backbone of UPerNet."""

from __future__ import annotations

from typing import Any, ClassVar

from mmseg.registry import MODELS
from torch import Tensor

from ..errors import SimimError
from ..models.backbone import SiameseIMViT


@MODELS.register_module()
class SiameseIMSegViT(SiameseIMViT):
    """The encoder of the pretraining with what MMSegmentation's MAE adds.

    Every block has BEiT's relative position bias and LayerScale. With the
    same weights the features equal those of MMSegmentation's ``MAE``.

    Args:
        relative_bias (bool): as in :class:`simim_plugin.vit.PlainViT`. With
            it, all images have the size ``img_size``. Defaults to True.
        layer_scale_init_value (float): LayerScale at the start, 0 for none.
            Defaults to 1.
        train_patch_embed (bool): train the patch embedding. Defaults to
            True.
        train_positions (bool): train the positions. Defaults to True.
        out_type (str): 'featmap', which the decoders of segmentation read.
            Defaults to 'featmap'.
        **kwargs: see :class:`simim_plugin.models.SiameseIMViT`. If a file
            of ``pretrained`` lacks the bias and LayerScale, they stay new.
    """

    may_lack: ClassVar = ('bias_table', 'gamma1.weight', 'gamma2.weight')

    def __init__(
        self,
        *,
        relative_bias: bool = True,
        layer_scale_init_value: float = 1.0,
        train_patch_embed: bool = True,
        train_positions: bool = True,
        out_type: str = 'featmap',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            relative_bias=relative_bias,
            layer_scale_init_value=layer_scale_init_value,
            train_patch_embed=train_patch_embed,
            train_positions=train_positions,
            out_type=out_type,
            **kwargs,
        )

    def forward(  # type: ignore[override]
        self, images: Tensor
    ) -> tuple[Tensor, ...]:
        """Return features (B, C, h, w) of the blocks in ``out_indices``.

        Raises:
            SimimError: for images that the relative bias does not fit.
        """
        sizes = tuple(self.img_size), tuple(images.shape[2:])
        if self.bias_index is not None and sizes[0] != sizes[1]:
            wanted, given = (' x '.join(map(str, size)) for size in sizes)
            raise SimimError(
                f'The backbone is built for images of {wanted} pixels and '
                f'was given {given}; set img_size of model.backbone, size '
                'of model.data_preprocessor and its test_cfg, and crop_size '
                'of model.test_cfg to the same.'
            )
        return tuple(super().forward(images))
