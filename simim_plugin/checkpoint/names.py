"""Translate the tensor names of other formats to ours and back.

Our parts are ``backbone`` (the online encoder), ``projector``, ``neck``,
``target`` (a second backbone and projector) and ``head``. In ``backbone``,
``ln1`` is the norm after the blocks and ``ln2`` the norm after the mean of the
patch tokens. A table describes each format: its names, ours. In the other
direction the first row of a name of ours counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import Trouble
from ..text import some
from .families import PLACED, other_model
from .joining import (
    StateDict,
    add_biases,
    join_parts,
    place_tokens,
    without_fixed,
)
from .reading import CheckpointError, inside_object
from .unpickling import UnknownObject

Rows = tuple[tuple[str, str], ...]


class Format(NamedTuple):
    """A way to name the tensors of a ViT.

    Args:
        name (str): for logs and errors.
        mark (str): a tensor that identifies the format.
        rows (tuple): pairs of prefixes, theirs and ours. The first that
            matches a name replaces its prefix.
        blocks (tuple): pairs of substrings, theirs and ours, inside a
            transformer block.
    """

    name: str
    mark: str
    rows: Rows
    blocks: Rows = ()


def _within(prefix: str, rows: Rows, goal: str = '') -> Rows:
    return tuple((prefix + theirs, goal + ours) for theirs, ours in rows)


_TIMM_BLOCKS = (
    ('.norm1.', '.ln1.'),
    ('.norm2.', '.ln2.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
)
_EXTENDED_BLOCKS = (
    *_TIMM_BLOCKS,
    ('.ls1.gamma', '.attn.gamma1.weight'),
    ('.ls2.gamma', '.ffn.gamma2.weight'),
    ('.gamma_1', '.attn.gamma1.weight'),
    ('.gamma_2', '.ffn.gamma2.weight'),
    ('.mlp.', '.ffn.'),
    ('.attn.relative_position_bias_table', '.attn.bias_table'),
)
_TIMM_ENCODER = (
    ('cls_token', 'backbone.cls_token'),
    ('pos_embed', 'backbone.pos_embed'),
    ('patch_embed.proj.', 'backbone.patch_embed.projection.'),
    ('blocks.', 'backbone.layers.'),
    ('norm.', 'backbone.ln1.'),
    ('fc_norm.', 'backbone.ln2.'),
    ('masked_embed', 'masked.masked_embed'),  # iBOT's students
)
_EXTENDED_ENCODER = (
    *_TIMM_ENCODER,
    ('reg_token', 'backbone.registers'),
    ('register_tokens', 'backbone.registers'),  # DINOv2's authors
    ('storage_tokens', 'backbone.registers'),  # DINOv3's authors
    ('dist_token', 'backbone.distilled'),  # DeiT
    ('norm_pre.', 'backbone.pre_norm.'),  # CLIP in timm
    (
        'rel_pos_bias.relative_position_bias_table',
        'backbone.shared_bias_table',
    ),  # BEiT's pretraining
    ('mask_token', 'masked.mask_token'),
    ('local_cls_norm.', 'local_cls_norm.'),  # of small crops only
)
_TIMM = (*_TIMM_ENCODER, ('head.', 'head.fc.'))
_EXTENDED = (
    *_EXTENDED_ENCODER,
    ('head_dist.', 'head_dist.'),
    ('fc.', 'projector.'),  # MSN
    ('lm_head.', 'lm_head.'),
    ('attn_pool.', 'attn_pool.'),  # SigLIP in timm
    ('head.', 'head.fc.'),
)
_OFFICIAL = (
    *_TIMM,  # fine-tuned files contain only these
    ('decoder_embed.', 'projector.embed.'),
    ('projector_decoder_blocks.', 'projector.layers.'),
    ('mask_token', 'neck.mask_token'),
    ('decoder_pos_embed', 'neck.pos_embed'),
    ('decoder_pos_mlp.', 'neck.relative_map.'),
    ('predictor_decoder_blocks.', 'neck.layers.'),
    ('decoder_pred.', 'neck.predict.'),
    ('mm_cls_token', 'target.backbone.cls_token'),
    ('mm_patch_embed.proj.', 'target.backbone.patch_embed.projection.'),
    ('mm_blocks.', 'target.backbone.layers.'),
    ('mm_decoder_embed.', 'target.projector.embed.'),
    ('mm_projector_decoder_blocks.', 'target.projector.layers.'),
    ('mm_mask_token', 'target.mask_token'),
)
_MAE = (
    *_TIMM,
    ('mask_token', 'decoder.mask_token'),
    ('decoder_', 'decoder.'),
)
_MOCO_V3 = (
    ('base_encoder.head.', 'projector.'),
    ('momentum_encoder.head.', 'target.projector.'),
    *_within('base_encoder.', _TIMM_ENCODER),
    *_within('momentum_encoder.', _TIMM_ENCODER, 'target.'),
    ('predictor.', 'predictor.'),
)
_DINO = tuple(  # and iBOT and DINOv2, with one branch or both
    row
    for branch, goal in (('', ''), ('student.', ''), ('teacher.', 'target.'))
    for row in (
        *_within(f'{branch}backbone.', _EXTENDED_ENCODER, goal),
        *(
            (f'{branch}{head}.', f'{goal}projector.')
            for head in ('head', 'dino_head', 'ibot_head')
        ),
    )
)
_HUGGING_FACE_ATTENTION = (
    ('.attention.attention.qkv.', '.attn.qkv.'),
    ('.attention.output.dense.', '.attn.proj.'),
)
_HUGGING_FACE_DINOV2_BLOCKS = (
    *_HUGGING_FACE_ATTENTION,
    ('.norm1.', '.ln1.'),
    ('.norm2.', '.ln2.'),
    ('.layer_scale1.lambda1', '.attn.gamma1.weight'),
    ('.layer_scale2.lambda1', '.ffn.gamma2.weight'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
    ('.mlp.weights_in.', '.ffn.w12.'),
    ('.mlp.weights_out.', '.ffn.w3.'),
)
_HUGGING_FACE_BLOCKS = (
    *_HUGGING_FACE_ATTENTION,
    ('.layernorm_before.', '.ln1.'),
    ('.layernorm_after.', '.ln2.'),
    ('.intermediate.dense.', '.ffn.layers.0.0.'),
    ('.output.dense.', '.ffn.layers.1.'),
    *_HUGGING_FACE_DINOV2_BLOCKS,
    # BEiT
    ('.lambda_1', '.attn.gamma1.weight'),
    ('.lambda_2', '.ffn.gamma2.weight'),
    (
        '.attention.attention.relative_position_bias.'
        'relative_position_bias_table',
        '.attn.bias_table',
    ),
)
_HUGGING_FACE_BARE = (
    ('embeddings.cls_token', 'backbone.cls_token'),
    ('embeddings.position_embeddings', 'backbone.pos_embed'),
    (
        'embeddings.patch_embeddings.projection.',
        'backbone.patch_embed.projection.',
    ),
    ('embeddings.mask_token', 'masked.mask_token'),
    ('embeddings.register_tokens', 'backbone.registers'),
    ('embeddings.distillation_token', 'backbone.distilled'),
    (
        'encoder.relative_position_bias.relative_position_bias_table',
        'backbone.shared_bias_table',
    ),
    ('encoder.layer.', 'backbone.layers.'),
    ('layernorm.', 'backbone.ln1.'),
    ('pooler.layernorm.', 'backbone.ln2.'),  # BEiT, after the mean
    ('pooler.', 'pooler.'),
)
_HUGGING_FACE_DINOV3 = (
    ('embeddings.cls_token', 'backbone.cls_token'),
    ('embeddings.patch_embeddings.', 'backbone.patch_embed.projection.'),
    ('embeddings.register_tokens', 'backbone.registers'),
    ('embeddings.mask_token', 'masked.mask_token'),
    ('layer.', 'backbone.layers.'),
    ('norm.', 'backbone.ln1.'),
)
_HUGGING_FACE_DINOV3_BLOCKS = (
    ('.norm1.', '.ln1.'),
    ('.norm2.', '.ln2.'),
    ('.attention.qkv.', '.attn.qkv.'),
    ('.attention.o_proj.', '.attn.proj.'),
    ('.layer_scale1.lambda1', '.attn.gamma1.weight'),
    ('.layer_scale2.lambda1', '.ffn.gamma2.weight'),
    ('.mlp.up_proj.', '.ffn.layers.0.0.'),
    ('.mlp.down_proj.', '.ffn.layers.1.'),
    ('.mlp.', '.ffn.'),
)
_HUGGING_FACE_CLIP = (  # and SigLIP
    ('embeddings.class_embedding', 'backbone.cls_token'),
    ('embeddings.position_embedding.weight', 'backbone.pos_embed'),
    ('embeddings.patch_embedding.', 'backbone.patch_embed.projection.'),
    ('pre_layrnorm.', 'backbone.pre_norm.'),
    ('encoder.layers.', 'backbone.layers.'),
    ('post_layernorm.', 'backbone.ln1.'),
    ('head.', 'attn_pool.'),
)
_HUGGING_FACE_CLIP_BLOCKS = (
    ('.layer_norm1.', '.ln1.'),
    ('.layer_norm2.', '.ln2.'),
    ('.self_attn.qkv.', '.attn.qkv.'),
    ('.self_attn.out_proj.', '.attn.proj.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
)
_OPEN_CLIP = (  # and OpenAI's
    ('class_embedding', 'backbone.cls_token'),
    ('positional_embedding', 'backbone.pos_embed'),
    ('conv1.', 'backbone.patch_embed.projection.'),
    ('ln_pre.', 'backbone.pre_norm.'),
    ('transformer.resblocks.', 'backbone.layers.'),
    ('ln_post.', 'backbone.ln1.'),
    ('proj', 'text_projection'),
)
_OPEN_CLIP_BLOCKS = (
    ('.ln_1.', '.ln1.'),
    ('.ln_2.', '.ln2.'),
    ('.attn.in_proj_', '.attn.qkv.'),
    ('.attn.out_proj.', '.attn.proj.'),
    ('.mlp.c_fc.', '.ffn.layers.0.0.'),
    ('.mlp.c_proj.', '.ffn.layers.1.'),
)
_CAPI = (
    ('registers', 'backbone.registers'),
    ('patch_embed.', 'backbone.patch_embed.projection.'),
    ('encoder.blocks.', 'backbone.layers.'),
    ('decoder.', 'decoder.'),
    ('mask_token', 'decoder.mask_token'),
)
_CAPI_BLOCKS = (
    ('.residual1.norm.', '.ln1.'),
    ('.residual2.norm.', '.ln2.'),
    ('.residual1.fn.rope.freqs', '.attn.frequencies'),
    ('.residual1.fn.qkv.', '.attn.qkv.'),
    ('.residual1.fn.proj.', '.attn.proj.'),
    ('.residual2.fn.fc1.', '.ffn.layers.0.0.'),
    ('.residual2.fn.fc2.', '.ffn.layers.1.'),
)
_HUGGING_FACE = (
    *_HUGGING_FACE_BARE,
    *_within('vit.', _HUGGING_FACE_BARE),
    ('decoder.', 'decoder.'),
    ('classifier.', 'head.fc.'),
)

# Detectron2's ViTDet, backbone and pyramid. A convolution contains its norm
# there; here the norm is the next layer.
_DETECTRON2 = (
    ('net.pos_embed', 'backbone.pos_embed'),
    ('net.patch_embed.proj.', 'backbone.patch_embed.projection.'),
    ('net.blocks.', 'backbone.layers.'),
    *(
        (f'simfp_{level + 2}.{theirs}', f'neck.levels.{level}.{ours}')
        for level, conv in enumerate((4, 1, 0, 1))
        for theirs, ours in (
            (f'{conv}.norm.', f'{conv + 1}.'),
            (f'{conv + 1}.norm.', f'{conv + 3}.'),
            (f'{conv + 1}.', f'{conv + 2}.'),
            ('', ''),
        )
    ),
)

OURS = Format(
    'MMPretrain', 'backbone.patch_embed.projection.weight', (('', ''),)
)
OFFICIAL = Format(
    'released SiameseIM', 'mm_cls_token', _OFFICIAL, _TIMM_BLOCKS
)
TIMM = Format('timm', 'patch_embed.proj.weight', _EXTENDED, _EXTENDED_BLOCKS)
HUGGING_FACE = Format(
    'Hugging Face',
    'embeddings.patch_embeddings.projection.weight',
    _HUGGING_FACE,
    _HUGGING_FACE_BLOCKS,
)
HUGGING_FACE_DINOV2 = HUGGING_FACE._replace(blocks=_HUGGING_FACE_DINOV2_BLOCKS)
HUGGING_FACE_DINOV3 = Format(
    HUGGING_FACE.name,
    'embeddings.patch_embeddings.weight',
    _HUGGING_FACE_DINOV3,
    _HUGGING_FACE_DINOV3_BLOCKS,
)
FORMATS = (
    OURS,
    OFFICIAL,
    OURS._replace(
        mark='patch_embed.projection.weight', rows=(('', 'backbone.'),)
    ),
    HUGGING_FACE,
    HUGGING_FACE._replace(mark=f'vit.{HUGGING_FACE.mark}'),
    HUGGING_FACE_DINOV3,
    Format(
        HUGGING_FACE.name,
        'embeddings.patch_embedding.weight',
        _HUGGING_FACE_CLIP,
        _HUGGING_FACE_CLIP_BLOCKS,
    ),
    Format('CLIP', 'ln_pre.weight', _OPEN_CLIP, _OPEN_CLIP_BLOCKS),
    Format(
        'CAPI',
        'encoder.blocks.0.residual1.norm.weight',
        _CAPI,
        _CAPI_BLOCKS,
    ),
    Format(
        'MoCo-v3',
        'base_encoder.patch_embed.proj.weight',
        _MOCO_V3,
        _TIMM_BLOCKS,
    ),
    *(
        Format(
            'DINO',
            f'{prefix}.patch_embed.proj.weight',
            _DINO,
            _EXTENDED_BLOCKS,
        )
        for prefix in ('student.backbone', 'teacher.backbone', 'backbone')
    ),
    *(
        Format(
            'Detectron2',
            f'{prefix}net.patch_embed.proj.weight',
            _within(prefix, _DETECTRON2),
            _TIMM_BLOCKS,
        )
        for prefix in ('backbone.', '')
    ),
    Format('MAE', 'decoder_embed.weight', _MAE, _TIMM_BLOCKS),
    TIMM,
)

_MARKS = tuple(form.mark for form in FORMATS)

# The released code averages a mask token that nothing reads. Its branches
# share one position table, of which we keep a copy for each.
UNREAD = 'target.mask_token'
_SHARED = 'target.backbone.pos_embed'


_ENTRIES = (
    'state_dict',
    'model',
    'module',
    'model_state_dict',
    'state_dict_ema',
    'model_ema',
    'ema',
    'ema_state_dict',
)
"""Entries of tensors, the first of which is taken. DeepSpeed writes 'module',
timm and DeiT the averaged weights beside the others, MMEngine those that are
not averaged as 'ema_state_dict'."""
_BRANCHES = ('student', 'teacher', 'encoder', 'target_encoder')
"""Entries of one encoder each: DINO and iBOT, I-JEPA and MSN."""
_COUNTERS = ('n_averaged', 'module.n_averaged', 'steps')
"""Numbers of averaged steps, of torch's and MMEngine's averaged models."""
_CHUNKS = re.compile(r'(?<![^.])blocks\.\d+\.(?=\d+\.)')
"""DINOv2's training puts its blocks into chunks."""
_WRAPPERS = re.compile(
    r'(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|'
    r'_checkpoint_wrapped_module)\.'
)
_TARGETS = re.compile(r'teacher|momentum|target|ema(?![a-z])|_k\b')


class Found(NamedTuple):
    """The tensors of a file by our names.

    Args:
        form (Format): the names in the file.
        state (dict[str, Tensor]): one that the format does not have is
            named ``unknown.NAME``, one outside the encoder's prefix
            ``outside.NAME``.
        entry (str): of the file that holds the tensors, '' for its top.
        others (list[str]): further entries with tensors.
        row_added (bool): the encoder's positions were given a row for the
            cls token.
    """

    form: Format
    state: dict[str, Tensor]
    entry: str
    others: list[str]
    row_added: bool = False


def from_any(
    content: Mapping[str, Any], file: Any, entry: str | None = None
) -> Found:
    """Rename the tensors in a file's content to our names.

    Names may have any prefix. If there are two encoders of unknown names, the
    one below a prefix such as ``teacher.`` or ``momentum_encoder.`` is the
    target.

    Args:
        content (Mapping[str, Any]): returned by :func:`read_checkpoint`.
        file: the file, for the errors.
        entry (str, optional): an entry of the file, or a prefix of its
            names. Defaults to the first known entry, and to the prefix that
            leads to an encoder.

    Raises:
        CheckpointError: if it holds no ViT of a known format, several, or
            not this entry.
    """
    state, taken, others = _tensors(content, file, entry)
    form = next((form for form in FORMATS if form.mark in state), None)
    if form is None:
        _refuse_objects(content, state, file)
        form, state = _below_prefix(state, file)
    if form is OFFICIAL:
        return Found(form, from_official(state), taken, others)
    if form.name != 'CAPI':  # its blocks have the name of RoPE-ViT's
        _refuse_others(state, file)
    state = join_parts(state) if form.name != OURS.name else _as_plain(state)
    renamed = {
        name
        if name.startswith(('outside.', 'target.'))
        else _rename(name, form, 0, 1) or f'unknown.{name}': value
        for name, value in state.items()
    }
    table = renamed.get('backbone.pos_embed')
    if form.name == 'Detectron2' and table is not None:
        # It keeps the row of the cls token, but not the token.
        renamed['backbone.pos_embed'] = table[:, 1:]
    elif form.name != OURS.name:
        place_tokens(renamed)
        if form.name == 'CAPI':
            add_biases(renamed)
        _refuse_unknown(renamed, file)
    added = table is not None and (
        renamed['backbone.pos_embed'].numel() > table.numel()
    )
    return Found(form, renamed, taken, others, added)


def _as_plain(state: StateDict) -> dict[str, Tensor]:
    """Give the blocks of our segmentation backbone the names of a ViT's."""
    plain = {}
    for name, value in without_fixed(state).items():
        for theirs, ours in _SEGMENTATION_BLOCKS:
            if name.endswith(theirs):
                name = name.removesuffix(theirs) + ours
        plain[name] = value
    return plain


_SEGMENTATION_BLOCKS = (
    ('.gamma_1', '.attn.gamma1.weight'),
    ('.gamma_2', '.ffn.gamma2.weight'),
    ('.attn.relative_position_bias_table', '.attn.bias_table'),
)


def _refuse_objects(
    content: Mapping[str, Any], state: StateDict, file: Any
) -> None:
    """Refuse a file without an encoder outside its objects.

    Raises:
        CheckpointError: naming the first object.
    """
    if any(name.endswith(_MARKS) for name in state):
        return
    places = dict(content)
    for name, inside in content.items():
        if isinstance(inside, Mapping):
            places |= {f'{name}.{k}': v for k, v in inside.items()}
    for name in sorted(places, key=lambda name: name not in _ENTRIES):
        if isinstance(places[name], UnknownObject):
            raise inside_object(file, places[name], str(name))


def _refuse_unknown(renamed: StateDict, file: Any) -> None:
    """Refuse an encoder that no option builds.

    Rotary positions leave no trace in the weights, and there are several.
    All encoders of DINOv3 have registers and LayerScale, and no table.

    Raises:
        CheckpointError: naming what it has or lacks.
    """
    has = {name.removeprefix('backbone.') for name in renamed}
    mlp = 'layers.0.ffn.'
    if f'{mlp}norm.weight' in has and f'{mlp}w12.weight' not in has:
        raise CheckpointError(
            f'The checkpoint {file} holds an encoder with norms in MLPs '
            'without gates, which the ViT of this package cannot compute; '
            'use an encoder that docs/encoders.md lists.'
        )
    dinov3 = {'cls_token', 'registers', 'layers.0.attn.gamma1.weight'}
    if 'layers.0.attn.proj.weight' in has and not (
        PLACED & has or dinov3 <= has
    ):
        raise CheckpointError(
            f'The checkpoint {file} holds an encoder without positions that '
            'is not DINOv3, so that its tensors do not show where its '
            'patches lie; use an encoder that docs/encoders.md lists.'
        )


def _refuse_others(state: StateDict, file: Any) -> None:
    """Refuse a model that is a ViT in names only.

    Raises:
        CheckpointError: naming it.
    """
    other = other_model(state)
    if other:
        raise CheckpointError(
            f'The checkpoint {file} holds the tensors of {other}, which the '
            'ViT of this package cannot compute; use an encoder that '
            'docs/encoders.md lists.'
        )


def _tensors(
    content: Mapping[str, Any], file: Any, entry: str | None
) -> tuple[dict[str, Tensor], str, list[str]]:
    """Return the tensors of an entry, its name, and the other entries."""
    entries = [name for name in _ENTRIES if _holds_tensors(content, name)]
    objects = [
        n for n in _ENTRIES if isinstance(content.get(n), UnknownObject)
    ]
    branches = [name for name in _BRANCHES if _holds_tensors(content, name)]
    inside: Mapping[str, Any] = content
    taken = ''
    if entry in objects:
        raise inside_object(file, content[entry], entry)
    if entry is not None and _holds_tensors(content, entry):
        taken, inside = entry, content[entry]
    elif entries:
        taken, inside = entries[0], content[entries[0]]
    elif not branches:
        taken, inside = _deeper(content, file, entry)
    else:
        inside = {
            f'{branch}.{name}': value
            for branch in branches
            for name, value in content[branch].items()
        }
    state = {
        _CHUNKS.sub('blocks.', _WRAPPERS.sub('', str(name))): value
        for name, value in inside.items()
        if isinstance(value, Tensor) and name not in _COUNTERS
    }
    if entry is not None and taken != entry:
        prefix = f'{entry.removesuffix(".")}.'
        state = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        if not state:
            raise CheckpointError(
                f'The checkpoint {file} has no entry and no prefix {entry!r}, '
                f'but {some(entries or inside) or "no tensor"}; choose one '
                'of them.'
            )
    others = [n for n in _ENTRIES if n in entries + objects and n != taken]
    return state, taken, others


def _deeper(
    content: Mapping[str, Any], file: Any, entry: str | None
) -> tuple[str, Mapping[str, Any]]:
    """Return the place of an encoder below entries of other names.

    Raises:
        CheckpointError: if there are several, and no entry is chosen.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, inside in content.items():
        if isinstance(inside, Mapping):
            found[str(name)] = inside
            found |= {f'{name}.{k}': v for k, v in inside.items()}
    found = {
        place: inside
        for place, inside in found.items()
        if isinstance(inside, Mapping)
        and any(str(name).endswith(_MARKS) for name in inside)
    }
    if entry in found:
        return entry, found[entry]
    if not found or entry is not None:
        return '', content
    if len(found) > 1:
        raise CheckpointError(
            f'The checkpoint {file} holds {len(found)} encoders, in the '
            f'entries {some(found)}; choose one by entry=NAME.'
        )
    return next(iter(found.items()))


def _holds_tensors(content: Mapping[str, Any], name: str) -> bool:
    inside = content.get(name)
    return isinstance(inside, Mapping) and any(
        isinstance(value, Tensor) for value in inside.values()
    )


def _below_prefix(
    state: StateDict, file: Any
) -> tuple[Format, dict[str, Tensor]]:
    """Find the format and the prefix of an encoder, and remove the prefix.

    Raises:
        CheckpointError: if there is no encoder, or more than one.
    """
    for form in FORMATS:
        prefixes = {
            name.removesuffix(form.mark)
            for name in state
            if name.endswith(f'.{form.mark}')
        }
        if prefixes:
            break
    else:
        if any('.lora_' in name for name in state):
            raise CheckpointError(
                f'The checkpoint {file} holds adapters (LoRA) without their '
                'encoder; test it by the config of its run, or merge it by '
                'tools/convert.py --config.'
            )
        model = other_model(state)
        held = f'tensors of {model}, such as ' if model else ''
        raise CheckpointError(
            f'The checkpoint {file} does not fit the model: it holds no ViT '
            f'of a known format, but {held}{some(state) or "no tensor"}; '
            f'check which model it is of; see {Trouble.NO_FIT}.'
        )
    online = sorted(p for p in prefixes if not _TARGETS.search(p))
    target = sorted(prefixes - {*online})
    if max(len(online), len(target)) > 1:
        raise CheckpointError(
            f'The checkpoint {file} holds {len(prefixes)} encoders, below '
            f'{some(sorted(prefixes))}; choose one by entry=PREFIX.'
        )
    own = (online or target)[0]
    other = target[0] if online and target else None
    found = {}
    for name, value in state.items():
        if name.startswith(own):
            found[name.removeprefix(own)] = value
        elif other is not None and name.startswith(other):
            known = _rename(name.removeprefix(other), form, 0, 1)
            found[f'target.{known}' if known else f'outside.{name}'] = value
        else:
            found[f'outside.{name}'] = value
    return form, found


def from_official(state: StateDict) -> dict[str, Tensor]:
    """Rename the released code's tensors to our names.

    Args:
        state (Mapping[str, Tensor]): the ``model`` entry of a released
            checkpoint, pretrained or fine-tuned.

    Raises:
        CheckpointError: for a name that the released code does not use.
    """
    renamed = _rename_all(state, OFFICIAL, 0, 1)
    if 'backbone.pos_embed' in renamed and OFFICIAL.mark in state:
        renamed[_SHARED] = renamed['backbone.pos_embed']
    return renamed


def to_official(state: StateDict) -> dict[str, Tensor]:
    """Rename our tensors to the released code's names.

    Args:
        state (Mapping[str, Tensor]): the state dict of a
            :class:`SiameseIM` or a fine-tuned classifier.

    Raises:
        CheckpointError: for a name that the released code does not have.
    """
    state = {name: value for name, value in state.items() if name != _SHARED}
    if 'neck.mask_token' in state:
        state.setdefault(UNREAD, state['neck.mask_token'])
    return _rename_all(state, OFFICIAL, 1, 0)


def to_timm(state: StateDict) -> dict[str, Tensor]:
    """Rename our encoder and linear head to timm's names.

    Raises:
        CheckpointError: for a tensor that timm's ViT does not have.
    """
    return _rename_all(state, TIMM, 1, 0)


def to_hugging_face(
    state: StateDict, form: Format = HUGGING_FACE
) -> dict[str, Tensor]:
    """Rename our encoder to the names of a model of Hugging Face.

    Args:
        state (Mapping[str, Tensor]): under our names.
        form (Format): of the model. Defaults to that of ``ViTModel``.

    Raises:
        CheckpointError: for a tensor that the model does not have.
    """
    split = {}
    stacked: dict[str, tuple[str, ...]] = {'.qkv.': ('query', 'key', 'value')}
    if form is HUGGING_FACE_DINOV3:
        stacked = {
            '.qkv.': ('q_proj', 'k_proj', 'v_proj'),
            '.w12.': ('gate_proj', 'up_proj'),
            '.w3.': ('down_proj',),
        }
    for name, value in _rename_all(state, form, 1, 0).items():
        kind = next((kind for kind in stacked if kind in name), None)
        if kind is not None:
            parts = value.chunk(len(stacked[kind]))
            for part, rows in zip(stacked[kind], parts, strict=True):
                split[name.replace(kind, f'.{part}.')] = rows
        else:
            split[name] = value
    return split


def _rename_all(
    state: StateDict, form: Format, source: int, goal: int
) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        known = _rename(name, form, source, goal)
        if known is None:
            raise CheckpointError(
                f'Cannot rename the tensor {name!r}: {form.name} weights '
                'have no such part; check where the checkpoint comes from.'
            )
        renamed[known] = value
    return renamed


def _rename(name: str, form: Format, source: int, goal: int) -> str | None:
    for row in form.rows:
        if name.startswith(row[source]):
            name = row[goal] + name.removeprefix(row[source])
            for block_row in form.blocks:
                name = name.replace(block_row[source], block_row[goal])
            return name
    return None
