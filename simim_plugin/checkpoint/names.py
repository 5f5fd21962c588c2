"""Translate the tensor names of other formats to ours and back.

Our parts are ``backbone`` (the online encoder), ``projector``, ``neck``,
``target`` (a second backbone and projector) and ``head``. In ``backbone``,
``ln1`` is the norm after the blocks and ``ln2`` the norm after the mean of the
patch tokens. A table describes each format: its names, ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .reading import CheckpointError

StateDict = Mapping[str, Tensor]
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
_TIMM_ENCODER = (
    ('cls_token', 'backbone.cls_token'),
    ('pos_embed', 'backbone.pos_embed'),
    ('patch_embed.proj.', 'backbone.patch_embed.projection.'),
    ('blocks.', 'backbone.layers.'),
    ('norm.', 'backbone.ln1.'),
    ('fc_norm.', 'backbone.ln2.'),
    ('masked_embed', 'masked.masked_embed'),  # iBOT's students
)
_TIMM = (*_TIMM_ENCODER, ('head.', 'head.fc.'))
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
_DINO = (  # and iBOT, with one branch or both
    *_within('backbone.', _TIMM_ENCODER),
    ('head.', 'projector.'),
    *_within('student.backbone.', _TIMM_ENCODER),
    ('student.head.', 'projector.'),
    *_within('teacher.backbone.', _TIMM_ENCODER, 'target.'),
    ('teacher.head.', 'target.projector.'),
)
_HUGGING_FACE_BLOCKS = (
    ('.layernorm_before.', '.ln1.'),
    ('.layernorm_after.', '.ln2.'),
    ('.attention.attention.qkv.', '.attn.qkv.'),
    ('.attention.output.dense.', '.attn.proj.'),
    ('.intermediate.dense.', '.ffn.layers.0.0.'),
    ('.output.dense.', '.ffn.layers.1.'),
)
_HUGGING_FACE_BARE = (
    ('embeddings.cls_token', 'backbone.cls_token'),
    ('embeddings.position_embeddings', 'backbone.pos_embed'),
    (
        'embeddings.patch_embeddings.projection.',
        'backbone.patch_embed.projection.',
    ),
    ('embeddings.mask_token', 'masked.mask_token'),
    ('encoder.layer.', 'backbone.layers.'),
    ('layernorm.', 'backbone.ln1.'),
    ('pooler.', 'pooler.'),
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
TIMM = Format('timm', 'patch_embed.proj.weight', _TIMM, _TIMM_BLOCKS)
HUGGING_FACE = Format(
    'Hugging Face',
    'embeddings.patch_embeddings.projection.weight',
    _HUGGING_FACE,
    _HUGGING_FACE_BLOCKS,
)
FORMATS = (
    OURS,
    OFFICIAL,
    OURS._replace(
        mark='patch_embed.projection.weight', rows=(('', 'backbone.'),)
    ),
    HUGGING_FACE,
    HUGGING_FACE._replace(mark=f'vit.{HUGGING_FACE.mark}'),
    Format(
        'MoCo-v3',
        'base_encoder.patch_embed.proj.weight',
        _MOCO_V3,
        _TIMM_BLOCKS,
    ),
    *(
        Format(
            'DINO', f'{prefix}.patch_embed.proj.weight', _DINO, _TIMM_BLOCKS
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

# The released code averages a mask token that nothing reads. Its branches
# share one position table, of which we keep a copy for each.
UNREAD = 'target.mask_token'
_SHARED = 'target.backbone.pos_embed'


def from_any(
    content: Mapping[str, Any], file: Any
) -> tuple[Format, dict[str, Tensor]]:
    """Rename the tensors in a file's content to our names.

    Args:
        content (Mapping[str, Any]): returned by :func:`read_checkpoint`.
        file: the file, for the errors.

    Returns:
        tuple[Format, dict[str, Tensor]]: the format of the names, and the
        tensors. One that the format does not have becomes ``unknown.NAME``.

    Raises:
        CheckpointError: if it holds no ViT of a known format.
    """
    state = _tensors(content)
    for form in FORMATS:
        if form.mark in state:
            break
    else:
        raise CheckpointError(
            f'The checkpoint {file} does not fit the model: it holds no ViT '
            f'of a known format, but {some(state) or "no tensor"}; check '
            'which model it is of.'
        )
    if form is OFFICIAL:
        return form, from_official(state)
    if form.name == HUGGING_FACE.name:
        state = _join_qkv(state)
    renamed = {
        _rename(name, form, 0, 1) or f'unknown.{name}': value
        for name, value in state.items()
    }
    if form.name == 'Detectron2' and 'backbone.pos_embed' in renamed:
        # It keeps the row of the cls token, but not the token.
        renamed['backbone.pos_embed'] = renamed['backbone.pos_embed'][:, 1:]
    return form, renamed


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a file without ``module.`` in their names."""
    for wrapper in ('state_dict', 'model'):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    else:
        branches = {
            f'{branch}.{name}': value
            for branch in ('student', 'teacher')
            if isinstance(content.get(branch), Mapping)
            for name, value in content[branch].items()
        }
        content = branches or content
    return {
        re.sub(r'(^|\.)module\.', r'\1', str(name)): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


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


def to_hugging_face(state: StateDict) -> dict[str, Tensor]:
    """Rename our encoder to the names of Hugging Face's ``ViTModel``.

    Raises:
        CheckpointError: for a tensor that ``ViTModel`` does not have.
    """
    split = {}
    for name, value in _rename_all(state, HUGGING_FACE, 1, 0).items():
        if '.qkv.' in name:
            parts = value.chunk(3)
            for part, rows in zip(
                ('query', 'key', 'value'), parts, strict=True
            ):
                split[name.replace('.qkv.', f'.{part}.')] = rows
        else:
            split[name] = value
    return split


def _join_qkv(state: StateDict) -> dict[str, Tensor]:
    """Stack Hugging Face's query, key and value maps into one."""
    joined = dict(state)
    for name in state:
        if '.attention.query.' in name:
            parts = [
                joined.pop(name.replace('.query.', f'.{part}.'))
                for part in ('query', 'key', 'value')
                if name.replace('.query.', f'.{part}.') in joined
            ]
            if len(parts) == 3:
                joined[name.replace('.query.', '.qkv.')] = torch.cat(parts)
    return joined


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


def some(names: Iterable[str]) -> str:
    """List the first three names."""
    names = list(names)
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
