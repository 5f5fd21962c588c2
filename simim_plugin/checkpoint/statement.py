"""What a checkpoint of this package states of its encoder.

The tensors show most options of a backbone. Entries of ``meta`` hold the
others. An export writes them; a run has them in the text of its config,
which is parsed and not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmcv.cnn.bricks.transformer import FFN
from torch import nn

from ..runs.changes import settings
from ..vit import PlainViT

_OURS = ('SiameseIMViT', 'SiameseIMViTDet', 'SiameseIMSegViT')
_MOST_CHANNELS = 1000
_POOLS = dict(cls_token='cls', avg_featmap='mean')
FAMILY = 'simim_plugin_family'
BACKBONE = 'simim_plugin_backbone'
IMAGES = 'simim_plugin_images'
GRID = 'simim_plugin_grid'
ACTIVATIONS: dict[str, dict[str, Any]] = {
    'gelu': dict(type='GELU'),
    'quick_gelu': dict(type='mmpretrain.QuickGELU'),
    'gelu_pytorch_tanh': dict(type='GELU', approximate='tanh'),
    'relu': dict(type='ReLU'),
    'silu': dict(type='SiLU'),
}
"""Hugging Face's names of activations."""


def stated_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``meta`` for the options of a backbone.

    Args:
        options (Mapping[str, Any]): as a config has them, of
            :class:`simim_plugin.vit.PlainViT`.
    """
    norm = options.get('norm_cfg') or dict(type='LN', eps=1e-6)
    rotary = options.get('rotary') or ''
    untraced = dict(
        rotary='dinov3' if rotary is True else str(rotary).lower(),
        norm=_bare(norm.get('type')),
        final_norm=bool(options.get('final_norm', False)),
        interpolate_antialias=bool(
            options.get('interpolate_antialias', False)
        ),
    )
    stated: dict[str, Any] = {
        BACKBONE: untraced,
        'layer_norm_eps': norm.get('eps', 1e-5),
        'hidden_act': _activation(options.get('layer_cfgs') or {}),
    }
    arch = options.get('arch', 'base')
    if isinstance(arch, str):
        arch = PlainViT.arch_zoo.get(arch.lower(), {})
    if 'num_heads' in arch:
        stated['num_attention_heads'] = arch['num_heads']
    return stated


def stated_by_run(text: Any) -> dict[str, Any]:
    """Return the entries of ``meta`` that the config of a run amounts to.

    Args:
        text (str): ``meta['cfg']`` of a checkpoint.

    Returns:
        dict[str, Any]: empty if the text is no config with a backbone of
        this package.
    """
    try:
        return _of_config(parsed(text))
    except (ValueError, TypeError, AttributeError, ArithmeticError):
        return {}


def parsed(text: Any) -> dict[str, Any]:
    """Parse the config of a run, {} if it is none. It may come from anywhere.

    Args:
        text (str): ``meta['cfg']`` of a checkpoint.
    """
    try:
        return settings(text) if isinstance(text, str) else {}
    except (ValueError, TypeError, RecursionError, MemoryError):
        return {}


def stated_grid(
    about: Mapping[str, Any], patch: int
) -> tuple[int, int] | None:
    """Return the rows and columns of patches that a file states, or None.

    Args:
        about (Mapping[str, Any]): the ``meta`` of a file of ours, or the
            ``config.json`` of Hugging Face or timm.
        patch (int): side of a patch, pixels.
    """
    timm = about.get('pretrained_cfg', about)
    size = timm.get('input_size') if isinstance(timm, Mapping) else None
    if isinstance(size, list | tuple):
        size = [*size][1:]
    size = about.get('image_size', size)
    sides = [size] * 2 if isinstance(size, int) else size
    grid = about.get(GRID)
    if grid is None and isinstance(sides, list | tuple):
        grid = [x // patch if isinstance(x, int) else 0 for x in sides]
    if not isinstance(grid, list) or len(grid) != 2:
        return None
    rows, columns = (x if type(x) is int else 0 for x in grid)
    return (rows, columns) if rows > 0 and columns > 0 else None


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries for a config; other forms raise TypeErrors."""
    model = config.get('model') or {}
    backbone = model.get('backbone') or {}
    backbone = backbone.get('module', backbone)  # of LoRAModel
    if _bare(backbone.get('type')) not in _OURS:
        return {}
    stated = stated_options(backbone)
    given = model.get('data_preprocessor') or config.get('data_preprocessor')
    given = given or {}
    stated[IMAGES] = {}
    channels = min(backbone.get('in_channels', 3), _MOST_CHANNELS)
    mean, std = given.get('mean'), given.get('std')
    if mean is None or std is None:  # the images keep their levels
        mean, std = [0.0] * channels, [1.0] * channels
    if isinstance(mean, list) and isinstance(std, list):
        stated[IMAGES] |= dict(mean=mean, std=std)
    pool = _POOLS.get(backbone.get('out_type', ''))
    if pool is not None:
        stated[IMAGES]['pool'] = pool
    size = backbone.get('pretrain_img_size', backbone.get('img_size', 224))
    sides = size if isinstance(size, list) else [size] * 2
    patch = backbone.get('patch_size', 16)
    stated[GRID] = [side // patch for side in sides]
    return stated


def _activation(layers: Mapping | Iterable[Mapping]) -> str:
    """Return the name of the activation of layers."""
    given = [layers] if isinstance(layers, Mapping) else [*layers]
    names = {
        _name(layer.get('act_cfg') or ACTIVATIONS['gelu']) for layer in given
    }
    return ' and '.join(sorted(names))


def activation_of(vit: nn.Module) -> str:
    """Return the name of the activation of a ViT's MLPs, '' for SwiGLU.

    Args:
        vit (nn.Module): the encoder.
    """
    found = [
        part.layers[0][1] for part in vit.modules() if isinstance(part, FFN)
    ]
    names = {
        _name(
            dict(
                type=type(part).__name__,
                approximate=getattr(part, 'approximate', 'none'),
            )
        )
        for part in found
    }
    return ' and '.join(sorted(names))


def _name(config: Mapping[str, Any]) -> str:
    """Return the name of an activation, its type if it is not known."""
    plain = {
        key: value
        for key, value in config.items()
        if value != 'none' and key != 'inplace'
    }
    plain['type'] = _bare(plain.get('type'))
    for name, known in ACTIVATIONS.items():
        if plain == {**known, 'type': _bare(known['type'])}:
            return name
    return plain['type']


def _bare(kind: Any) -> str:
    """Return the name of a type without its scope."""
    return str(kind).rpartition('.')[2]
