"""Write encoders as folders of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .families import options_text
from .joining import own_tensors
from .names import (
    HUGGING_FACE,
    HUGGING_FACE_DINOV2,
    HUGGING_FACE_DINOV3,
    Format,
    StateDict,
    to_hugging_face,
)
from .portable import Portable
from .reading import CheckpointError
from .timm_export import PLAIN_OPTIONS, extended

_SHARED = {'layer_scale_init_value', 'ffn_type', 'num_registers'}
"""Options of other methods that DINOv2 and DINOv3 have."""


def write_folder(folder: Path, model: Portable) -> str:
    """Write an encoder, and return the name of the class that reads it.

    Args:
        folder (Path): to write.
        model (Portable): the encoder.

    Raises:
        CheckpointError: if no class has its options.
    """
    import safetensors.torch
    import transformers

    kind, form, options = _kind(model)
    config = getattr(transformers, f'{kind}Config')(
        architectures=[f'{kind}Model'],
        hidden_size=model.dims,
        num_hidden_layers=model.depth,
        num_attention_heads=model.num_heads,
        layer_norm_eps=model.eps,
        image_size=model.img_size,
        patch_size=model.patch,
        num_channels=model.options.get('in_channels', 3),
        **options,
    )
    config.save_pretrained(folder)
    named = to_hugging_face(_encoder(model), form)
    if kind != 'ViT':  # a part of the class, which nothing reads
        named['embeddings.mask_token'] = torch.zeros(1, 1, model.dims)
    if kind.startswith('Dinov2'):
        named['embeddings.mask_token'] = torch.zeros(1, model.dims)
    # In transformers 5 the tensors of the model have other names than those
    # of the file, so the model does not save them.
    safetensors.torch.save_file(
        own_tensors(named),
        Path(folder, 'model.safetensors'),
        dict(format='pt'),
    )
    return f'{kind}Model'


def _kind(model: Portable) -> tuple[str, Format, dict[str, Any]]:
    """Return a class of transformers, its names, and arguments."""
    options = model.options
    if not extended(model):
        return (
            'ViT',
            HUGGING_FACE,
            dict(
                intermediate_size=model.hidden,
                qkv_bias=model.qkv_bias,
                simim_plugin_final_norm=model.final_norm,
            ),
        )
    others = options.keys() - PLAIN_OPTIONS - _SHARED
    scaled = model.final_norm and 'layer_scale_init_value' in options
    if scaled and options.get('rotary') == 'dinov3':
        if others <= {'rotary', 'absolute_positions'}:
            return 'DINOv3ViT', HUGGING_FACE_DINOV3, _dinov3(model)
    elif scaled and not others:
        kind, arguments = 'Dinov2', _dinov2(model)
        if 'num_registers' in options:
            kind = 'Dinov2WithRegisters'
            arguments['num_register_tokens'] = options['num_registers']
        return kind, HUGGING_FACE_DINOV2, arguments
    to = 'plugin' if options.get('rotary') == 'capi' else 'timm'
    raise CheckpointError(
        'Hugging Face is written as ViT, DINOv2 and DINOv3, and this encoder '
        f'is of {options_text(options)}; convert it to {to}.'
    )


def _gated(model: Portable) -> bool:
    return model.options.get('ffn_type') == 'swiglu'


def _dinov2(model: Portable) -> dict[str, Any]:
    """Return arguments of DINOv2.

    Raises:
        CheckpointError: for SwiGLU of a width that it cannot have.
    """
    ratio = model.hidden / model.dims
    if _gated(model):  # 2/3 of it, rounded up to a multiple of 8
        ratio = round(1.5 * ratio)
        if (int(ratio * model.dims * 2 / 3) + 7) // 8 * 8 != model.hidden:
            raise CheckpointError(
                f'SwiGLU of {model.hidden} channels fits no DINOv2 of '
                'Hugging Face; convert it to timm.'
            )
    return dict(
        mlp_ratio=ratio, use_swiglu_ffn=_gated(model), qkv_bias=model.qkv_bias
    )


def _dinov3(model: Portable) -> dict[str, Any]:
    """Return arguments of DINOv3."""
    return dict(
        intermediate_size=model.hidden,
        use_gated_mlp=_gated(model),
        hidden_act='silu' if _gated(model) else 'gelu',
        num_register_tokens=model.options.get('num_registers', 0),
        query_bias=model.qkv_bias,
        key_bias=model.qkv_bias,
        value_bias=model.qkv_bias,
    )


def _encoder(model: Portable) -> StateDict:
    """Return the tensors of an encoder, with a final norm."""
    encoder: dict[str, Tensor] = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith('backbone.')
        and not name.startswith('backbone.ln2.')
    }
    if not model.final_norm:
        encoder['backbone.ln1.weight'] = torch.ones(model.dims)
        encoder['backbone.ln1.bias'] = torch.zeros(model.dims)
    return encoder
