"""An encoder that replaces masked patches by a learned token.

Shape key: B batch, N patches, V visible patches, C channels.
"""

from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..errors import SimimError
from ..models.backbone import SiameseIMViT


@MODELS.register_module()
class MaskTokenViT(SiameseIMViT):
    """The encoder of BEiT and iBOT.

    The token belongs to the algorithm, so that encoders of all methods have
    the same parameters.

    Args:
        **kwargs: see :class:`simim_plugin.models.SiameseIMViT`.
    """

    def forward(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        positions: Tensor | None = None,
        replaced: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Encode images.

        Args:
            images (Tensor): (B, 3, H, W).
            visible (Tensor, optional): (B, V); see
                :class:`simim_plugin.vit.PlainViT`.
            positions (Tensor, optional): (1, N, C), likewise.
            replaced (tuple[Tensor, Tensor], optional): a mask (B, N) of
                bool and a token (1, 1, C), which replaces the patches where
                the mask is True. Positions are added to it.

        Returns:
            Tensor | tuple[Tensor, ...]: as of
            :class:`simim_plugin.vit.PlainViT`.
        """
        if replaced is None:
            return super().forward(images, visible, positions)
        mask, token = replaced
        patches, grid = self.patch_embed(images)  # (B, N, C)
        patches = patches.where(~mask[..., None], token.to(patches.dtype))
        return self.encode(patches, grid, visible, positions)


def check_backbone(method: str, backbone: nn.Module) -> None:
    """Refuse an encoder that cannot replace patches.

    Args:
        method (str): class of the algorithm, for the error.
        backbone (nn.Module): its encoder.

    Raises:
        SimimError: if it is no :class:`MaskTokenViT`.
    """
    if not isinstance(backbone, MaskTokenViT):
        raise SimimError(
            f'{method} replaces masked patches by a token, which '
            f'{type(backbone).__name__} cannot do; set type of '
            "model.backbone to 'MaskTokenViT'."
        )
