"""The families of published encoders: options, preprocessing and pooling.

The tensors show most of it, by their names and shapes. The rest stands in
one table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..vit.arches import arch_name, known_encoder
from ..vit.layers import ROTARY_KINDS
from .joining import StateDict, blocks_of
from .preprocessing import WEIGHT_FILES
from .reading import CheckpointError
from .statement import (
    ACTIVATIONS,
    BACKBONE,
    FAMILY,
    GRID,
    IMAGES,
    stated_options,
)

_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_HALF = (127.5,) * 3, (127.5,) * 3
_CLIP = (
    (122.7709383, 116.7460125, 104.09373615),
    (68.5005327, 66.6321579, 70.32316305),
)


class Family(NamedTuple):
    """How the authors of a family of encoders read images and features.

    Args:
        name (str): as in docs/encoders.md.
        mean (tuple[float, ...]): of R, G and B, levels 0 to 255.
        std (tuple[float, ...]): as ``mean``.
        crop (float): side of the centre crop over the short edge of the
            resized image.
        pool (str): the feature of an image, 'cls' or 'mean' of the patches.
        eps (float): of the norms.
        antialias (bool): filter interpolated positions.
        rotary (str): kind of rotary positions, '' for none.
        interpolation (str): of the resized image.
        known (bool): whether the file states mean and std.
        named (bool): whether only the name of the file shows the family.
    """

    name: str
    mean: tuple[float, ...] = _IMAGENET[0]
    std: tuple[float, ...] = _IMAGENET[1]
    crop: float = 224 / 256
    pool: str = 'mean'
    eps: float = 1e-6
    antialias: bool = False
    rotary: str = ''
    interpolation: str = 'bicubic'
    known: bool = True
    named: bool = False


_OF_IMAGES = ('mean', 'std', 'crop', 'interpolation', 'pool')


def statement(
    family: Family, options: Mapping[str, Any], grid: Iterable[int] | None
) -> dict[str, Any]:
    """Return what a file states of its encoder, as plain values of ``meta``.

    Args:
        family (Family): of the encoder.
        options (Mapping[str, Any]): of :func:`encoder_options`.
        grid (Iterable[int], optional): rows and columns of the positions.
    """
    stated = stated_options(options)
    stated[FAMILY] = family.name
    if grid is not None:
        stated[GRID] = [*grid]
    if family.known:
        values = {name: getattr(family, name) for name in _OF_IMAGES}
        stated[IMAGES] = {
            key: [*value] if isinstance(value, tuple) else value
            for key, value in values.items()
        }
    return stated


def with_images(family: Family, stated: Mapping[str, Any]) -> Family:
    """Return a family that reads images as :func:`statement` says.

    Raises:
        CheckpointError: for values of another type.
    """
    values = {name: stated[name] for name in _OF_IMAGES if name in stated}
    try:
        for name in {'mean', 'std'} & {*values}:
            values[name] = tuple(map(float, values[name]))
        values['crop'] = float(values.get('crop', family.crop))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            'The checkpoint states mean, std or crop of its images in '
            f'another form than this package writes ({error}); export it '
            'again.'
        ) from error
    return family._replace(known=True, **values)


PLAIN = Family('plain ViT', known=False)
FAMILIES = (
    PLAIN,
    Family('SiameseIM'),
    Family('MAE'),
    Family('MoCo-v3', pool='cls'),
    Family('DINO', pool='cls'),
    Family('MSN', pool='cls'),
    Family('DINOv2', pool='cls'),
    Family('DINOv2 with registers', pool='cls', antialias=True),
    Family('DINOv3', crop=1.0, pool='cls', eps=1e-5, rotary='dinov3'),
    Family('EVA-02', *_CLIP, crop=0.9, rotary='eva02'),
    Family('EVA-02 CLIP', *_CLIP, crop=0.9, pool='cls', rotary='eva02'),
    Family('BEiT', *_HALF, crop=0.9),
    Family('I-JEPA', crop=0.9),
    Family('DeiT', crop=0.9, pool='cls'),
    Family('DeiT-III', crop=0.9, pool='cls'),
    Family('SigLIP', *_HALF, crop=0.9),
    Family('CLIP', *_CLIP, crop=0.9, pool='cls', eps=1e-5),
    Family('CAPI', eps=1e-5, rotary='capi'),
)
BY_NAME = {family.name: family for family in FAMILIES}
_FREQUENCIES = 'layers.0.attn.frequencies'
PLACED = {'pos_embed', 'layers.0.attn.bias_table', _FREQUENCIES}
"""Tensors, below ``backbone.``, that show where patches lie."""

_RIVALS = (
    ('head.centre.value', 'DINO'),
    ('head.prototypes', 'MSN'),
    ('head.predictor.fc0.weight', 'MoCo-v3'),
    ('head.fc.weight', 'DeiT'),
)
"""Parts of what :mod:`simim_plugin.rivals` writes, beside a final norm."""


def described(family: Family) -> str:
    """Describe how the features of a family are read."""
    pool = 'cls token' if family.pool == 'cls' else 'mean of the patches'
    mean, std = (
        ' '.join(f'{value:.1f}' for value in values)
        for values in (family.mean, family.std)
    )
    by_name = ' (by its name)' if family.named else ''
    text = (
        f'{family.name}{by_name}: {pool}, mean {mean}, std {std}, '
        f'{family.interpolation}, centre crop of {100 * family.crop:.1f} % of '
        'the short edge'
    )
    if not family.known:
        text += (
            '. Its file does not state mean and std, which AugReg has as '
            '127.5: set mean and std of model.data_preprocessor if these are '
            'wrong'
        )
    if family.name == PLAIN.name and family.pool == 'mean':
        text += (
            '. DINO, iBOT and MoCo-v3 have the same tensors, and the cls '
            'token as their feature: put dino, ibot or moco into the name of '
            'such a file, or add --cfg-options knn:test_cfg.pool=cls to '
            'tools/evaluate.py'
        )
    return text


_OWN = ('target.backbone.', 'projector.embed.', 'layers.0.attn.rel_pos_h')
"""Beginnings of tensors, below ``backbone`` or not, that only the models of
this package have: a second encoder, SiameseIM's projector, ViTDet."""


def family_of(form: str, state: StateDict) -> Family:
    """Return the family of an encoder.

    The names of MAE, MoCo-v3 and DINO (iBOT) identify them, and the head
    identifies MSN.
    AugReg has the names and the shapes of a plain ViT.
    The options of a model of this package do not make it another family.

    Args:
        form (str): name of the format of the names.
        state (Mapping[str, Tensor]): under our names.
    """
    has = {name.removeprefix('backbone.') for name in state}
    if form == 'MMPretrain' and any(name.startswith(_OWN) for name in has):
        family = BY_NAME[_by_parts(form, state)]
        if PLACED & has:
            return family
        # Its config states the rotary positions, and is missing.
        eps = BY_NAME[_by_options(state)].eps
        return family._replace(rotary='dinov3', eps=eps)
    name = _by_options(state) or _by_parts(form, state)
    return BY_NAME.get(name, PLAIN)


def _by_parts(form: str, state: StateDict) -> str:
    """Return a family by the parts beside an encoder without options."""
    name = form.replace('MMPretrain', 'SiameseIM')
    name = name.removeprefix('released ')
    if any(name.startswith('projector.fc') for name in state):
        name = 'MSN'
    if 'backbone.ln1.weight' in state:
        rivals = (name for part, name in _RIVALS if part in state)
        name = next(rivals, name)
    return name


def _by_options(state: StateDict) -> str:
    """Return a family by the options of an encoder, '' if it has none."""
    has = {name.removeprefix('backbone.') for name in state}
    scaled = 'layers.0.attn.gamma1.weight' in has
    table = state.get('backbone.pos_embed')
    if 'pre_norm.weight' in has:
        name = 'CLIP'
    elif 'layers.0.attn.bias_table' in has:
        name = 'BEiT'
    elif any(name.startswith('attn_pool.') for name in state):
        name = 'SigLIP'
    elif _FREQUENCIES in has:
        name = 'CAPI'
    elif table is None:
        name = 'DINOv3'
    elif 'layers.0.attn.norm.weight' in has:
        name = 'EVA-02 CLIP'
    elif 'layers.0.ffn.w12.weight' in has and not scaled:
        name = 'EVA-02'
    elif scaled and 'registers' in has:
        name = 'DINOv2 with registers'
    elif scaled and bool(table[:, 0].any()):
        name = 'DINOv2'
    elif scaled:
        name = 'DeiT-III'
    elif 'registers' in has:
        name = 'DeiT'
    else:
        name = '' if 'cls_token' in has else 'I-JEPA'
    return name


def encoder_options(
    state: StateDict,
    about: Mapping[str, Any],
    file: str,
    num_heads: int | None = None,
    family: Family = PLAIN,
) -> dict[str, Any]:
    """Return the arguments of a backbone that fits an encoder's tensors.

    Args:
        state (Mapping[str, Tensor]): below ``backbone.``, without it.
        about (Mapping[str, Any]): what the file states of its model.
        file (str): the source, for the error.
        num_heads (int, optional): attention heads, if the file does not
            state them.
        family (Family): of the encoder, for the eps of the norms.

    Returns:
        dict[str, Any]: ``arch`` and ``patch_size``, and of the options of
        :class:`simim_plugin.models.SiameseIMViT` those that are on.

    Raises:
        CheckpointError: if a tensor of every ViT is missing, or the
            file does not state the number of heads.
    """
    try:
        kernel = state['patch_embed.projection.weight']
        hidden, gated = _hidden(state)
        state['layers.0.attn.proj.weight']
    except KeyError as error:
        raise CheckpointError(
            f'The checkpoint {file} has no encoder tensor {error}; only '
            'plain ViTs can be read.'
        ) from error
    width, depth = kernel.shape[0], len({*blocks_of(state, '')})
    options: dict[str, Any] = dict(
        arch=dict(
            embed_dims=width,
            num_layers=depth,
            num_heads=_heads(state, about, file, num_heads, width, depth),
            feedforward_channels=hidden,
        ),
        patch_size=kernel.shape[2],
    )
    options |= _switches(state, about, family)
    if 'layers.0.attn.gamma1.weight' in state:
        options['layer_scale_init_value'] = 1.0
    act = _activation(about, file, gated)
    if act != ACTIVATIONS['gelu']:
        options['layer_cfgs'] = dict(act_cfg=act)
    return dict(options, norm_cfg=_norm(state, about, file, family))


def _switches(
    state: StateDict, about: Mapping[str, Any], family: Family
) -> dict[str, Any]:
    """Return the options of a backbone that are on, in a fixed order."""
    stated = _untraced(about)
    final_norm = 'ln1.weight' in state or (
        stated.get('final_norm', _FREQUENCIES in state) is True
    )
    kernel, gated = state['patch_embed.projection.weight'], _hidden(state)[1]
    cases = dict(
        in_channels=(kernel.shape[1], 3),
        num_registers=(_count(state.get('registers')), 0),
        with_cls_token=('cls_token' in state, True),
        absolute_positions=('pos_embed' in state, True),
        relative_bias=('layers.0.attn.bias_table' in state, False),
        rotary=(rotary_of(state, about, family), ''),
        qk_norm=('layers.0.attn.q_norm.weight' in state, False),
        attn_norm=('layers.0.attn.norm.weight' in state, False),
        ffn_type=('swiglu' if gated else 'origin', 'origin'),
        ffn_norm=('layers.0.ffn.norm.weight' in state, False),
        qkv_bias=('layers.0.attn.qkv.bias' in state, True),
        pre_norm=('pre_norm.weight' in state, False),
        final_norm=(final_norm, False),
        # CAPI's has no weights.
        final_norm_affine=('ln1.weight' in state or not final_norm, True),
        interpolate_antialias=(
            stated.get('interpolate_antialias', family.antialias) is True,
            False,
        ),
    )
    return {
        name: value for name, (value, off) in cases.items() if value != off
    }


def _untraced(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the stated options that the tensors do not show."""
    stated = about.get(BACKBONE)
    return stated if isinstance(stated, Mapping) else {}


def _norm(
    state: StateDict, about: Mapping[str, Any], file: str, family: Family
) -> dict[str, Any]:
    """Return the config of the norms.

    Raises:
        CheckpointError: for an eps that is none.
    """
    eps = about.get('layer_norm_eps', family.eps)
    if type(eps) not in (int, float) or not 0 < eps <= 1:
        raise CheckpointError(
            f'The description of {file} has layer_norm_eps={eps!r:.80}, which '
            'is no number above 0 and at most 1; get it again from its '
            'source.'
        )
    kind = 'RMSNorm' if _FREQUENCIES in state else 'LN'
    stated = _untraced(about).get('norm')
    return dict(type=stated if stated in ('RMSNorm', 'LN') else kind, eps=eps)


def rotary_of(
    state: StateDict, about: Mapping[str, Any], family: Family
) -> str:
    """Return the kind of rotary positions, '' for none.

    Args:
        state (Mapping[str, Tensor]): below ``backbone.``, without it.
        about (Mapping[str, Any]): what the file states of its model.
        family (Family): of the encoder.
    """
    if _FREQUENCIES in state:
        return 'capi'
    rotary = _untraced(about).get('rotary')
    return rotary if rotary in ('', *ROTARY_KINDS) else family.rotary


def options_text(options: Mapping[str, Any]) -> str:
    """Write options of a backbone as in a config.

    Args:
        options (Mapping[str, Any]): of :func:`encoder_options`.
    """
    arch = options['arch']
    options = {**options, 'arch': arch_name(arch) or arch}
    return ', '.join(f'{key}={value!r}' for key, value in options.items())


def _activation(
    about: Mapping[str, Any], file: str, gated: bool
) -> dict[str, Any]:
    """Return the config of an activation, GELU for SwiGLU's own.

    Raises:
        CheckpointError: for one that no option builds.
    """
    name = stated_activation(about, file) or 'gelu'
    if gated and about.get('model_type') == 'dinov3_vit':
        known = name == 'silu'
    else:
        known = name in [*ACTIVATIONS]
    if not known:
        raise CheckpointError(
            f'The description of {file} has hidden_act={name!r:.80}, which '
            'the ViT of this package does not have; use an encoder that '
            'docs/encoders.md lists.'
        )
    return ACTIVATIONS['gelu' if gated else name]


def stated_activation(about: Mapping[str, Any], file: str) -> Any:
    """Return the activation that a file or its name states, '' for none.

    Args:
        about (Mapping[str, Any]): what the file states of its model.
        file (str): the source.
    """
    quick = 'quickgelu' in _words(about, file)
    return about.get('hidden_act', 'quick_gelu' if quick else '')


def _hidden(state: StateDict) -> tuple[int, bool]:
    """Return the hidden channels of the MLPs, and whether they are SwiGLU."""
    if 'layers.0.ffn.w12.weight' in state:
        return len(state['layers.0.ffn.w12.weight']) // 2, True
    return len(state['layers.0.ffn.layers.0.0.weight']), False


def _count(tokens: Tensor | None) -> int:
    return 0 if tokens is None else tokens.shape[1]


def _heads(
    state: StateDict,
    about: Mapping[str, Any],
    file: str,
    given: int | None,
    width: int,
    depth: int,
) -> int:
    """Return the number of attention heads.

    Raises:
        CheckpointError: if it is below 1, the file does not state it, or
            the tensors have another.
    """
    if given is not None and given < 1:
        raise CheckpointError(
            f'An encoder has one attention head or more, and --num-heads is '
            f'{given}; set the number of the training of {file}.'
        )
    table = state.get('layers.0.attn.bias_table')
    norm = state.get('layers.0.attn.q_norm.weight')
    frequencies = state.get(_FREQUENCIES)
    stated = 0
    if table is not None:
        stated = table.shape[1]
    elif frequencies is not None:
        stated = width // frequencies.shape[1]
    elif norm is not None:
        stated = width // len(norm)
    if given and stated and given != stated:
        raise CheckpointError(
            f'The tensors of {file} are for {stated} attention heads, not '
            f'{given}; leave --num-heads out.'
        )
    of_file = about.get('num_attention_heads')
    if given and type(of_file) is int and given != of_file:
        raise CheckpointError(
            f'{file} states {of_file} attention heads, not {given}; leave '
            '--num-heads out.'
        )
    heads = given or of_file or stated
    if not heads and 'pos_embed' not in state:
        heads = width // 64  # DINOv3, ViT-H+ too
    known = known_encoder(width, depth)
    heads = heads or (known.heads if known else 0)
    valid = type(heads) is int and heads > 0
    if not valid or width % heads:
        raise CheckpointError(
            f'The checkpoint {file} does not state how many attention heads '
            f'share its {width} channels (found {heads!r:.80}); pass '
            '--num-heads.'
        )
    return heads


_OTHERS = (
    (('layers.0.blocks.0.', '.w_msa.'), 'Swin'),
    (
        (
            'downsample_layers.0.0.weight',
            'stages.0.blocks.0.conv_dw.weight',
            'stages.0.0.dwconv.weight',
        ),
        'ConvNeXt',
    ),
    (('patch_embed.backbone.', 'patch_embed.conv1.'), 'a hybrid ViT'),
    (('layer1.0.conv1.weight',), 'a ResNet'),
    (('rope.freqs$',), 'RoPE-ViT'),
    (
        ('text_model.', 'token_embedding.', 'encoder.layer.0.attention.self.'),
        'a text encoder',
    ),
)
"""Parts of names, $ for the end, and the models that have them."""


def other_model(names: Iterable[str]) -> str:
    """Return which model that is no plain ViT has such names, '' if none."""
    names = [name for name in names if not name.startswith('outside.')]
    for marks, model in _OTHERS:
        if any(mark in f'{name}$' for mark in marks for name in names):
            return model
    return ''


def is_rope_vit(family: Family, about: Mapping[str, Any], file: str) -> bool:
    """Return whether an encoder that looks like DeiT-III is RoPE-ViT.

    With a table of positions it has the same tensors: its rotary positions
    leave no trace in them, but its name contains ``_rope_``.

    Args:
        family (Family): of the tensors.
        about (Mapping[str, Any]): what the file states of its model.
        file (str): the source.
    """
    rope = 'rope' in _words(about, file)
    return rope and family.name == 'DeiT-III'


_WORDS = dict(dino='DINO', ibot='DINO', moco='MoCo-v3', mocov='MoCo-v3')
"""Words of names without digits, and the families that they are of."""


def named_family(about: Mapping[str, Any], file: str) -> Family:
    """Return the family of an encoder that looks like a plain ViT.

    The backbones of DINO, iBOT and MoCo-v3 do; their names tell them apart.

    Args:
        about (Mapping[str, Any]): what the file states of its model.
        file (str): the source.
    """
    words = _words(about, file)
    names = {family for word, family in _WORDS.items() if word in words}
    if len(names) != 1:
        return PLAIN
    return BY_NAME[names.pop()]._replace(named=True)


def _words(about: Mapping[str, Any], file: str) -> list[str]:
    """Return the words in the names of a model and of its file or folder."""
    path = Path(file).absolute()
    path = path.parent if path.name in WEIGHT_FILES else path
    name = f'{about.get("architecture", "")} {path.name}'
    return re.split(r'[^a-z]+', name.lower())
