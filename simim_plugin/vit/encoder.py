"""A plain ViT that encodes all patches or only the visible ones.

Shape key: B batch, N patches, V visible patches, E extra tokens (the cls
token, and registers if there are), T = E + V tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from mmpretrain.models import VisionTransformer
from torch import Tensor

from ..errors import SimimError
from ..geometry import Grid
from .arches import ARCHES
from .layers import (
    FFN_TYPES,
    ROTARY_KINDS,
    ExtendedLayer,
    Places,
    add_tokens,
    build_rotary,
    check_norms,
    extra_tokens,
    has_frequencies,
    layer_depth,
    lighten,
    run_block,
)
from .learned_rotary import EdgeCoordinates
from .norm import final_norm as build_final_norm
from .relative import bias_index, bias_rows


def resize_table(
    table: Tensor,
    old: Grid,
    new: Grid,
    mode: str = 'bicubic',
    antialias: bool = False,
) -> Tensor:
    """Interpolate a table of positions (1, N, C) to another grid.

    Args:
        table (Tensor): (1, N, C) of patches only.
        old (tuple[int, int]): its rows and columns.
        new (tuple[int, int]): those of the result.
        mode (str): of :func:`torch.nn.functional.interpolate`. Defaults to
            'bicubic'.
        antialias (bool): filter. Defaults to False.
    """
    if tuple(old) == tuple(new):
        return table
    image = table.transpose(1, 2).unflatten(2, tuple(old))
    if image.dtype != torch.float64:  # half precision has no bicubic
        image = image.float()
    image = F.interpolate(image, tuple(new), mode=mode, antialias=antialias)
    return image.flatten(2).transpose(1, 2).to(table.dtype)


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse an option that is not one of its choices.

    Raises:
        SimimError: naming the choices.
    """
    if isinstance(value, str) and value.lower() not in choices:
        raise SimimError(
            f'There is no {name} {value!r}; use one of {", ".join(choices)}.'
        )


class PlainViT(VisionTransformer):
    """MMPretrain's ViT on visible patches, with the options of others.

    The options build the encoders of other methods; docs/encoders.md lists
    them.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', 'large', 'huge' or
            'giant', another name of MMPretrain's, or its dictionary.
            Defaults to 'base'.
        num_registers (int): tokens after the cls token that have no
            position: registers, storage tokens, the distillation token of
            DeiT. Defaults to 0.
        absolute_positions (bool): add a table of positions. Defaults to
            True.
        rotary (bool | str): rotate queries and keys by their places, as
            'dinov3' or True, 'eva02' or 'capi', whose blocks hold their
            frequencies and whose registers have places. Defaults to None.
        relative_bias (bool): add BEiT's bias by relative position to the
            attention. It has the grid of ``img_size``. Defaults to False.
        qk_norm (bool): normalise queries and keys. Defaults to False.
        attn_norm (bool): normalise the result of the attention before its
            last map. Defaults to False.
        ffn_type (str): see :class:`ExtendedLayer`. Defaults to 'origin'.
        ffn_norm (bool): normalise the hidden channels of SwiGLU. Defaults to
            False.
        interpolate_antialias (bool): interpolate the table of positions with
            a low-pass filter, as DINOv2 with registers does. Defaults to
            False.
        final_norm_affine (bool): give the final norm weights. Defaults to
            True.
        with_cp (bool): recompute the blocks' activations in the backward
            pass instead of keeping them. Defaults to False.
        **kwargs: see :class:`mmpretrain.models.VisionTransformer`; LayerScale
            is ``layer_scale_init_value``.

    Raises:
        SimimError: for an unknown ``arch``, ``rotary`` or ``ffn_type``, and
            for ``ffn_norm`` without SwiGLU.
    """

    pos_embed: Any  # parameters or None
    cls_token: Any
    registers: Any
    table_extra: int  # rows of the table before those of the patches
    arch_zoo: ClassVar = {
        **VisionTransformer.arch_zoo,
        **{name[0]: arch for name, arch in ARCHES.items()},
        **ARCHES,
    }

    def __init__(
        self,
        arch: str | dict = 'base',
        *,
        num_registers: int = 0,
        absolute_positions: bool = True,
        rotary: bool | str | None = None,
        relative_bias: bool = False,
        qk_norm: bool = False,
        attn_norm: bool = False,
        ffn_type: str = 'origin',
        ffn_norm: bool = False,
        interpolate_antialias: bool = False,
        final_norm_affine: bool = True,
        with_cp: bool = False,
        **kwargs: Any,
    ) -> None:
        check_choice('arch', arch, self.arch_zoo)
        check_choice('rotary', rotary, ROTARY_KINDS)
        check_choice('ffn_type', ffn_type, FFN_TYPES)
        check_norms(ffn_norm, ffn_type)
        super().__init__(arch, **kwargs)
        self.interpolate_antialias = interpolate_antialias
        self.with_cp = with_cp
        add_tokens(
            self, self.with_cls_token, num_registers, absolute_positions
        )
        norm_cfg = kwargs.get('norm_cfg', dict(type='LN', eps=1e-6))
        if self.final_norm:
            self.ln1 = build_final_norm(
                norm_cfg, self.embed_dims, final_norm_affine
            )
        head_dims = self.embed_dims // self.arch_settings['num_heads']
        self.rotary = build_rotary(rotary, head_dims, num_registers)
        self.bias_index = None
        if relative_bias:
            index = bias_index(self.patch_resolution, self.num_extra_tokens)
            del self.bias_index
            self.register_buffer('bias_index', index, persistent=False)
        extended = rotary or relative_bias or qk_norm or attn_norm
        if extended or ffn_type != 'origin':
            self._extend_layers(
                kwargs.get('layer_cfgs', {}),
                kwargs.get('drop_path_rate', 0.0),
                norm_cfg=norm_cfg,
                drop_rate=kwargs.get('drop_rate', 0.0),
                qkv_bias=kwargs.get('qkv_bias', True),
                layer_scale_init_value=kwargs.get(
                    'layer_scale_init_value', 0.0
                ),
                qk_norm=qk_norm,
                attn_norm=attn_norm,
                neighbours=getattr(self.rotary, 'neighbours', False),
                frequencies=has_frequencies(self.rotary),
                ffn_type=ffn_type,
                ffn_norm=ffn_norm,
                bias_rows=(
                    bias_rows(self.patch_resolution) if relative_bias else 0
                ),
            )
        lighten(self.layers)

    def _extend_layers(
        self,
        own: dict | Sequence[dict],
        drop_path_rate: float,
        **options: Any,
    ) -> None:
        """Replace MMPretrain's layers by :class:`ExtendedLayer`.

        Args:
            own (dict | Sequence[dict]): ``layer_cfgs``.
            drop_path_rate (float): of the last layer.
            **options: of all layers.
        """
        if isinstance(own, dict):
            own = [own] * self.num_layers
        rates = torch.linspace(0, drop_path_rate, self.num_layers).tolist()
        self.layers = ModuleList(
            ExtendedLayer(
                embed_dims=self.embed_dims,
                num_heads=self.arch_settings['num_heads'],
                feedforward_channels=self.arch_settings[
                    'feedforward_channels'
                ],
                **{'drop_path_rate': rate, **options, **cfg},
            )
            for rate, cfg in zip(rates, own, strict=True)
        )

    def _prepare_pos_embed(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        """Resize the table of a state dict, of a square grid, in place."""
        name, extra = f'{prefix}pos_embed', self.table_extra
        if self.pos_embed is None or name not in state_dict:
            return
        table = state_dict[name]
        if table.shape != self.pos_embed.shape:
            side = isqrt(table.shape[1] - extra)
            patches = resize_table(
                table[:, extra:],
                (side, side),
                self.patch_resolution,
                self.interpolate_mode,
                self.interpolate_antialias,
            )
            state_dict[name] = torch.cat([table[:, :extra], patches], dim=1)

    def forward(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Encode images.

        Args:
            images (Tensor): (B, 3, H, W).
            visible (Tensor, optional): (B, V) row-major indices of the
                patches to encode. Defaults to all patches.
            positions (Tensor, optional): (1, N, C), added to the patches.
                Defaults to those of the table. Without a table nothing is
                added.

        Returns:
            Tensor | tuple[Tensor, ...]: with ``visible``, the extra tokens
            and the visible patches (B, E + V, C); without it, the output of
            MMPretrain's ViT.
        """
        patches, grid = self.patch_embed(images)  # (B, N, C)
        return self.encode(patches, grid, visible, positions)

    def encode(
        self,
        patches: Tensor,
        grid: Grid,
        visible: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Encode embedded patches.

        The method adds the positions, drops the masked patches, prepends the
        extra tokens and runs the layers. Other encoders have more places:
        rotary positions or a relative bias.

        Args:
            patches (Tensor): (B, N, C), without positions.
            grid (tuple[int, int]): their rows and columns.
            visible (Tensor, optional): see :meth:`forward`.
            positions (Tensor, optional): see :meth:`forward`.

        Returns:
            Tensor | tuple[Tensor, ...]: see :meth:`forward`.
        """
        if self.pos_embed is not None:
            if positions is None:
                positions = self._positions(grid)
            patches = patches + positions
        places = self.places(grid, visible)
        if visible is not None:
            patches = patches.take_along_dim(visible[..., None], dim=1)
            return self._outputs(patches, *places)[-1]
        outputs = self._outputs(patches, *places)
        return tuple(self._format_output(x, grid) for x in outputs)

    def _positions(self, grid: Grid) -> Tensor:
        """Return the positions (1, N, C) of the patches of a grid."""
        return resize_table(
            self.pos_embed[:, self.table_extra :],
            self.patch_resolution,
            grid,
            self.interpolate_mode,
            self.interpolate_antialias,
        )

    def _outputs(self, patches: Tensor, *places: Places) -> list[Tensor]:
        """Encode patches (B, V, C) with positions.

        Returns:
            list[Tensor]: the tokens (B, E + V, C) after each of
            ``out_indices``.
        """
        tokens = torch.cat(
            [*extra_tokens(self, patches.shape[0]), patches], dim=1
        )
        tokens = self.pre_norm(self.drop_after_pos(tokens))
        outputs = []
        for index, layer in enumerate(self.layers):
            tokens = run_block(self.with_cp, layer, tokens, *places)
            if self.final_norm and index == self.num_layers - 1:
                tokens = self.ln1(tokens)
            if index in self.out_indices:
                outputs.append(tokens)
        return outputs

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """See :func:`simim_plugin.vit.layers.layer_depth`."""
        return layer_depth(self, param_name, prefix)

    def places(
        self, grid: Grid, visible: Tensor | None = None
    ) -> tuple[Places, ...]:
        """Return the arguments of the layers that depend on the places.

        Args:
            grid (tuple[int, int]): rows and columns of the image's patches.
            visible (Tensor, optional): (B, V) indices of the patches.

        Returns:
            tuple[Places, ...]: one, or none for MMPretrain's layers.

        Raises:
            SimimError: if a relative bias has another grid.
        """
        if not isinstance(self.layers[0], ExtendedLayer):
            return ()
        rotation = coordinates = None
        index = self.bias_index
        device = self.patch_embed.projection.weight.device
        if isinstance(self.rotary, EdgeCoordinates):
            coordinates = self.rotary(grid, device, visible)
        elif self.rotary is not None:
            rotation = self.rotary(grid, device)[:, None, None]
        if index is not None and tuple(grid) != tuple(self.patch_resolution):
            raise SimimError(
                'The relative bias of the backbone is for '
                f'{self.patch_resolution[0]} x {self.patch_resolution[1]} '
                f'patches, and an image has {grid[0]} x {grid[1]}; set '
                'img_size of the backbone to the size of the images.'
            )
        if visible is not None and rotation is not None:
            rotation = rotation.take_along_dim(
                visible[None, :, None, :, None], dim=3
            )  # (2, B, 1, V, D)
        if visible is not None and index is not None:
            extra = torch.arange(self.num_extra_tokens, device=visible.device)
            kept = torch.cat(
                [
                    extra.expand(len(visible), -1),
                    visible + self.num_extra_tokens,
                ],
                dim=1,
            )
            index = index[kept[:, :, None], kept[:, None]]  # (B, T, T)
        return (Places(rotation, index, coordinates),)
