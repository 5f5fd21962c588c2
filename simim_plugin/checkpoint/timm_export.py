"""Build timm's models of encoders that have more than a plain ViT."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from .portable import Portable
from .reading import CheckpointError
from .statement import ACTIVATIONS

PLAIN_OPTIONS = {
    *('arch', 'patch_size', 'in_channels', 'final_norm', 'norm_cfg'),
    *('qkv_bias', 'interpolate_antialias'),
}
"""Options that a plain ViT of every library has."""

_DINOV3 = dict(
    use_abs_pos_emb=False,
    use_rot_pos_emb=True,
    rope_type='dinov3',
    rope_temperature=100.0,
    rope_rotate_half=True,
    dynamic_img_size=True,
)


_EVA02 = dict(use_rot_pos_emb=True, ref_feat_shape=(16, 16))


def extended(model: Portable) -> bool:
    """Return whether an encoder has an option of other methods."""
    return bool(model.options.keys() - PLAIN_OPTIONS)


def build_extended(
    model: Portable, named: dict[str, Tensor]
) -> tuple[Any, dict[str, Tensor], str]:
    """Return timm's model, its state dict, and the call that builds it.

    Rotary positions need timm's ``Eva``, a relative bias its ``Beit``, all
    others its ``VisionTransformer``.

    Args:
        model (Portable): the encoder.
        named (dict[str, Tensor]): its tensors under the names of timm's
            ``VisionTransformer``.

    Raises:
        CheckpointError: if timm has no such model.
    """
    import timm

    arguments = _common(model)
    if model.options.get('rotary') == 'capi':
        raise CheckpointError(
            'timm has no ViT with frequencies in each block, as CAPI has '
            'them; convert it to plugin.'
        )
    if model.options.get('rotary'):
        kind: Any = timm.models.eva.Eva
        arguments |= _rotary_arguments(model.options)
        arguments['use_fc_norm'] = model.fc_norm
        if _split_gates(named):
            arguments |= dict(swiglu_mlp=True, swiglu_align_to=1)
        named = _as_beit(named)
    elif model.options.get('relative_bias'):
        kind = timm.models.beit.Beit
        arguments |= dict(use_rel_pos_bias=True, use_abs_pos_emb=False)
        named = _as_beit(named)
    else:
        kind = timm.models.VisionTransformer
        arguments |= _vit_arguments(model, named)
    vit = kind(**arguments)
    call = ', '.join(f'{k}={_text(v)}' for k, v in arguments.items())
    call = f'{kind.__module__}.{kind.__name__}({call})'
    if kind is not timm.models.VisionTransformer and not (
        model.final_norm or model.fc_norm
    ):
        vit.norm = nn.Identity()
        call += ' and norm = torch.nn.Identity()'
    return vit, named, call


def _rotary_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of an ``Eva``."""
    own = _EVA02 if options['rotary'] == 'eva02' else _DINOV3
    arguments = dict(own, num_reg_tokens=options.get('num_registers', 0))
    rows = (('attn_norm', 'scale_attn_inner'), ('ffn_norm', 'scale_mlp'))
    for ours, theirs in rows:
        if ours in options:
            arguments[theirs] = True
    return arguments


def _common(model: Portable) -> dict[str, Any]:
    options = model.options
    arguments: dict[str, Any] = dict(
        img_size=model.img_size,
        patch_size=model.patch,
        in_chans=options.get('in_channels', 3),
        embed_dim=model.dims,
        depth=model.depth,
        num_heads=model.num_heads,
        mlp_ratio=model.hidden / model.dims,
        qkv_bias=model.qkv_bias,
        num_classes=model.num_classes,
        global_pool='avg' if model.fc_norm else 'token',
    )
    if 'layer_scale_init_value' in options:
        arguments['init_values'] = options['layer_scale_init_value']
    if model.eps != 1e-6:
        arguments['norm_layer'] = partial(nn.LayerNorm, eps=model.eps)
    return arguments


def _vit_arguments(
    model: Portable, named: dict[str, Tensor]
) -> dict[str, Any]:
    """Return arguments of a ``VisionTransformer``; adapt its state dict."""
    import timm

    options = model.options
    arguments: dict[str, Any] = {
        name: options[name]
        for name in ('qk_norm', 'pre_norm')
        if name in options
    }
    if not model.pools:
        norm = model.final_norm
        arguments |= dict(global_pool='', final_norm=norm)
    if not options.get('with_cls_token', True):
        arguments['class_token'] = False
    if options.get('num_registers'):
        table = named['pos_embed']
        if 'cls_token' in named:
            named['cls_token'] = named['cls_token'] + table[:, :1]
            named['pos_embed'] = table[:, 1:]
        arguments['reg_tokens'] = options['num_registers']
        arguments['no_embed_class'] = True
    if options.get('ffn_type') == 'swiglu':
        arguments |= dict(
            mlp_layer=timm.layers.SwiGLUPacked,
            act_layer=nn.SiLU,
            mlp_ratio=2 * model.hidden / model.dims,
        )
        for name in [*named]:
            packed = name.replace('.mlp.w12.', '.mlp.fc1.')
            packed = packed.replace('.mlp.w3.', '.mlp.fc2.')
            named[packed] = named.pop(name)
    act = options.get('layer_cfgs', {}).get('act_cfg')
    if act is not None:
        name = next(k for k, known in ACTIVATIONS.items() if known == act)
        name = name.replace('gelu_pytorch_tanh', 'gelu_tanh')
        arguments['act_layer'] = name
    return arguments


def _split_gates(named: dict[str, Tensor]) -> bool:
    """Rename the maps of SwiGLU as ``Eva`` does, and return if it has any."""
    found = False
    for name in [*named]:
        if '.mlp.w12.' in name:
            gate, value = named.pop(name).chunk(2)
            named[name.replace('.w12.', '.fc1_g.')] = gate
            named[name.replace('.w12.', '.fc1_x.')] = value
            found = True
        elif '.mlp.w3.' in name:
            named[name.replace('.w3.', '.fc2.')] = named.pop(name)
    return found


def _as_beit(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename LayerScale and split the biases, as ``Beit`` and ``Eva`` do.

    Raises:
        CheckpointError: if keys have a bias, which these models lack.
    """
    renamed = {}
    for name, value in named.items():
        name = name.replace('.ls1.gamma', '.gamma_1')
        name = name.replace('.ls2.gamma', '.gamma_2')
        if not name.endswith('.attn.qkv.bias'):
            renamed[name] = value
            continue
        query, key, value = value.chunk(3)
        if key.any():
            raise CheckpointError(
                "The encoder has a bias of its keys, which timm's models of "
                'its family lack; convert it to plugin.'
            )
        start = name.removesuffix('qkv.bias')
        renamed |= {f'{start}q_bias': query, f'{start}v_bias': value}
    return renamed


def _text(value: Any) -> str:
    """Write an argument as in Python."""
    if isinstance(value, partial):
        words = ', '.join(f'{k}={v!r}' for k, v in value.keywords.items())
        return f'functools.partial(torch.nn.LayerNorm, {words})'
    if value is nn.SiLU:
        return 'torch.nn.SiLU'
    if callable(value):
        return 'timm.layers.SwiGLUPacked'
    return repr(value)
