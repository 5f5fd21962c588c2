"""Fill models from files: all tensors of an encoder, or an error.

Shape key: N patches, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from ..errors import SimimError, Trouble
from ..text import clean, some
from ..vit import resize_table
from ..vit.relative import bias_rows, resize_bias
from .adapters import load_adapters
from .channels import adapt_all_channels, adapt_channels
from .families import (
    BY_NAME,
    PLAIN,
    Family,
    described,
    encoder_options,
    family_of,
    is_rope_vit,
    named_family,
    options_text,
    rotary_of,
    stated_activation,
    statement,
    with_images,
)
from .grids import Grid, bias_grid, grid_of, with_row
from .joining import blocks_of, misshapen, without_fixed
from .names import (
    OFFICIAL,
    OURS,
    UNREAD,
    Format,
    StateDict,
    from_any,
)
from .preprocessing import beside, preprocessing
from .reading import CheckpointError, read_checkpoint
from .statement import (
    BACKBONE,
    FAMILY,
    IMAGES,
    activation_of,
    stated_by_run,
    stated_grid,
)

_SAME_CONFIG = 'use the config that the checkpoint was made with'
_RESIZE = 'resize_patches=True resizes the patch kernel'
_CHANNELS = (
    "pretrained=dict(file=..., channels='mean'), or 'repeat', adapts the "
    'patch kernels to the channels'
)
_PATCHES = 'patch_embed.projection.weight'
BRANCHES = {
    'online': 'online',
    'student': 'online',
    'target': 'target',
    'teacher': 'target',
}
"""The names of the two encoders of a model."""
_NORMS = {'ln1': 'final norm', 'ln2': 'fc_norm'}


@dataclass
class Weights:
    """The tensors of a file under our names.

    Args:
        file (str): the source.
        form (Format): the names in the file.
        state (dict[str, Tensor]): ``backbone.cls_token`` and so on.
        about (Mapping[str, Any]): the ``config`` (Hugging Face) or ``meta``
            entry of the file, and what the config of a run states.
        choice (str): a clause that names the entry of the tensors, and the
            others, '' if there is no choice.
        stated (Mapping[str, Any]): see :func:`preprocessing`.
        row_added (bool): see :class:`Found`.
    """

    file: str
    form: Format
    state: dict[str, Tensor]
    about: Mapping[str, Any]
    choice: str = ''
    stated: Mapping[str, Any] = field(default_factory=dict)
    row_added: bool = False

    def shape(self) -> tuple[int, int, int]:
        """Return the encoder's width, depth and patch size in pixels.

        Raises:
            CheckpointError: if there is no patch embedding of images.
        """
        kernel = self.state.get(f'backbone.{_PATCHES}')
        if kernel is None or kernel.ndim != 4:
            found = 'none' if kernel is None else tuple(kernel.shape)
            raise CheckpointError(
                f'The checkpoint {self.file} has no patch embedding '
                f'(backbone.{_PATCHES}) of 2-D images, but {found}; check '
                'which model it is of.'
            )
        layers = {
            name.partition('.')[0] for name in self.part('backbone.layers')
        }
        return kernel.shape[0], len(layers), kernel.shape[2]

    @property
    def family(self) -> Family:
        """How the authors of the encoder read images and features."""
        family = family_of(self.form.name, self.state)
        named = self.about.get(FAMILY)
        if isinstance(named, str):
            family = BY_NAME.get(named, family)
        kept = self.about.get(IMAGES)
        if isinstance(kept, Mapping):
            family = with_images(family, kept)
        stated = dict(self.stated)
        pool = stated.pop('global_pool', None)
        if family is PLAIN and self.about.get('model_type') == 'vit_msn':
            family = family_of('MSN', self.state)
        elif family is PLAIN:
            family = named_family(self.about, self.file)
            family = family._replace(pool=pool or family.pool)
        return family._replace(known=True, **stated) if stated else family

    @property
    def grid(self) -> Grid | None:
        """The grid that the file states, if its positions can be of it."""
        kernel = self.state.get(f'backbone.{_PATCHES}')
        if kernel is None:
            return None
        grid = stated_grid(self.about, kernel.shape[-1])
        return grid if grid and self._can_be_of(grid) else None

    def _can_be_of(self, grid: Grid) -> bool:
        table = self.state.get('backbone.pos_embed')
        bias = self.state.get('backbone.layers.0.attn.bias_table')
        if table is not None:
            rows = table.shape[1] - self.row_added
            return rows - prod(grid) in (0, 1)
        return bias is not None and len(bias) == bias_rows(grid)

    def with_row(
        self, table: Tensor, given: Grid | None, goal: Grid | None
    ) -> Tensor:
        """Return the positions with the row of the cls token.

        See :func:`simim_plugin.checkpoint.grids.with_row`.
        """
        if self.form.name == OURS.name:
            return table
        bare = {'registers', 'layers.0.attn.gamma1.weight'}
        is_bare = any(f'backbone.{name}' in self.state for name in bare)
        return with_row(table, self.file, given, goal, self.row_added, is_bare)

    @property
    def rotary(self) -> str:
        """The kind of the encoder's rotary positions, '' for none."""
        return rotary_of(self.part('backbone'), self.about, self.family)

    def options(self, num_heads: int | None = None) -> dict[str, Any]:
        """Return the arguments of a backbone that these tensors fill.

        See :func:`encoder_options`.

        Raises:
            CheckpointError: if it is no encoder of images.
        """
        self.shape()  # refuses other kernels
        about = self.about
        if self.stated_heads:
            about = {**about, 'num_attention_heads': self.stated_heads}
        return encoder_options(
            self.part('backbone'),
            about,
            self.file,
            num_heads,
            self.family,
        )

    @property
    def stated_heads(self) -> int:
        """The attention heads of the file or its method, 0 if not known."""
        stated = self.about.get('num_attention_heads')
        if not stated and self._by_moco and self.shape()[0] == 384:
            return 12
        return stated if type(stated) is int else 0

    @property
    def _by_moco(self) -> bool:
        """Whether it is a MoCo-v3 of its authors or of MMPretrain.

        Their ViT-S has 12 heads, and that of our MoCo-v3 has 6.
        """
        parts = ('momentum_encoder.', 'target.backbone.')
        has = [any(n.startswith(part) for n in self.state) for part in parts]
        moco = self.form.name == OURS.name and self.family.name == 'MoCo-v3'
        return self.form.name == 'MoCo-v3' or (moco and has == [True, False])

    def needed_options(self, num_heads: int | None) -> str:
        """Return a clause that names the options of a backbone."""
        try:
            options = self.options(num_heads)
        except CheckpointError:
            return _SAME_CONFIG
        return f'the file is for a backbone of {options_text(options)}'

    def encoder_file(self, num_heads: int | None = None) -> dict[str, Any]:
        """Return the content of a file of the encoder alone.

        Args:
            num_heads (int, optional): see :func:`encoder_options`.

        Raises:
            CheckpointError: see :meth:`options`.
        """
        encoder = self.part('backbone')
        if {'cls_token', 'pos_embed'} <= encoder.keys():
            table = encoder['pos_embed']
            encoder['pos_embed'] = self.with_row(table, self.grid, None)
        meta = statement(self.family, self.options(num_heads), self.grid)
        state = {f'backbone.{name}': x for name, x in encoder.items()}
        return dict(state_dict=state, meta=meta)

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors below ``name``, without that prefix."""
        return {
            key.removeprefix(f'{name}.'): value
            for key, value in self.state.items()
            if key.startswith(f'{name}.')
        }

    def unknown(self) -> dict[str, Tensor]:
        """Return the tensors that the format does not have."""
        return {
            name: value
            for name, value in self.state.items()
            if name.startswith('unknown.')
        }


def read_weights(
    file: str | Path,
    branch: str = 'online',
    content: Mapping[str, Any] | None = None,
    entry: str | None = None,
) -> Weights:
    """Read a file of any known format under our names.

    Args:
        file (str | Path): see :func:`read_checkpoint`.
        branch (str): the encoder to name ``backbone`` if the file has two:
            'online' (or 'student'), or 'target' (or 'teacher'). The other
            is named ``target.backbone``.
        content (Mapping[str, Any], optional): the file's content, if it is
            read already.
        entry (str, optional): see :func:`load_backbone`.

    Raises:
        CheckpointError: if the file is unsafe or broken, holds no ViT of a
            known format or not this branch, or a value is not finite.
    """
    if branch not in BRANCHES:
        raise CheckpointError(
            f'There is no branch {branch!r}; use one of {", ".join(BRANCHES)}.'
        )
    if content is None:
        content = read_checkpoint(file)
    content = {**beside(file), **content}
    form, state, taken, others, row_added = from_any(content, file, entry)
    _check_tensors(state, file)
    if BRANCHES[branch] == 'target':
        state = {_swap_branches(name): value for name, value in state.items()}
    stated = preprocessing(content, str(file))
    about = _stated(content)
    if about.get('simim_plugin_final_norm') is False:  # ln1 is 1, 0
        for name in ('weight', 'bias'):
            state.pop(f'backbone.ln1.{name}', None)
    if not any(name.startswith('backbone.') for name in state):
        raise CheckpointError(
            f'The checkpoint {file} ({form.name}) has no {branch} encoder; '
            'choose the other branch.'
        )
    if is_rope_vit(family_of(form.name, state), about, str(file)):
        raise CheckpointError(
            f'The checkpoint {file} is of RoPE-ViT by its name, whose rotary '
            'positions the ViT of this package does not have; use an encoder '
            'that docs/encoders.md lists, or rename a file of DeiT-III.'
        )
    choice = _choice(taken, others)
    return Weights(str(file), form, state, about, choice, stated, row_added)


def _stated(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file states of its model."""
    about = content.get('config', content.get('meta'))
    about = about if isinstance(about, Mapping) else {}
    about = about.get('vision_config', about)  # of CLIP and SigLIP
    about = about if isinstance(about, Mapping) else {}
    return {**stated_by_run(about.get('cfg')), **about}


def _choice(taken: str, others: Sequence[str]) -> str:
    """Describe which entry of a file was taken, if it has several."""
    if not others or not taken:
        return ''
    choice = f'entry {taken}, not {", ".join(others)} (entry=NAME chooses)'
    if taken == 'state_dict' and 'ema_state_dict' in others:
        choice += '; MMEngine saves the average as state_dict'
    return choice


def _check_tensors(state: StateDict, file: str | Path) -> None:
    wrong = misshapen(state)
    if wrong:
        raise CheckpointError(
            f'The checkpoint {file} holds {len(wrong)} tensors of another '
            f'shape or kind of numbers than a ViT has ({some(wrong)}); get '
            'the file again from its source.'
        )
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    if broken:
        raise CheckpointError(
            f'The checkpoint {file} holds values that are not finite in '
            f'{len(broken)} of {len(state)} tensors ({some(broken)}); the '
            'run that wrote it had failed, take an earlier one.'
        )


def _swap_branches(name: str) -> str:
    if name.startswith(('target.backbone.', 'target.projector.')):
        return name.removeprefix('target.')
    if name.startswith(('backbone.', 'projector.')):
        return f'target.{name}'
    return name


def load_backbone(
    backbone: VisionTransformer,
    file: str | Path,
    *,
    branch: str = 'online',
    entry: str | None = None,
    resize_patches: bool = False,
    grid: Grid | None = None,
    channels: str | None = None,
    partial: bool = False,
    stays_new: tuple[str, ...] = (),
) -> None:
    """Fill an encoder from a file of any known format, and log the result.

    Positions of another grid are interpolated. A norm after the last block is
    loaded if the backbone has one (``final_norm=True``). The norm after the
    mean of the patch tokens keeps its values if the file has none.

    Args:
        backbone (VisionTransformer): the encoder to fill.
        file (str | Path): of a format that docs/weights.md lists.
        branch (str): 'online' ('student') or 'target' ('teacher').
        entry (str, optional): an entry of the file, such as 'model_ema', or
            a prefix of its names. Defaults to the first known one.
        resize_patches (bool): resize a patch kernel, bicubic.
        grid (tuple[int, int], optional): rows and columns of the file's
            positions, for learned ones of a grid that is not square.
        channels (str, optional): 'mean' or 'repeat' adapts patch kernels of
            another number of channels.
        partial (bool): skip missing, mis-shaped and unknown tensors.
        stays_new (tuple[str, ...]): endings of the names that the file may
            lack.

    Raises:
        CheckpointError: if the file is unsafe or broken, or a tensor of the
            encoder is missing, mis-shaped or unknown.
    """
    weights = read_weights(file, branch, entry=entry)
    _check_untraced(backbone, weights)
    encoder = weights.part('backbone')
    resized, dropped = _adapt(backbone, encoder, weights, resize_patches, grid)
    if channels is not None:
        resized += _adapt_channels(backbone, encoder, channels)
    fitting, left_out = _fill(backbone, encoder, weights, partial, stays_new)
    backbone.loaded_family = weights.family.name
    misfits = len(encoder) + len(weights.unknown()) - fitting
    dropped += ['misfits'] * misfits
    dropped += _groups(weights, {'backbone', 'unknown'})
    _report(fitting, weights, branch, resized, dropped, left_out)


def _fill(
    backbone: VisionTransformer,
    encoder: StateDict,
    weights: Weights,
    partial: bool,
    stays_new: tuple[str, ...],
) -> tuple[int, list[str]]:
    """Fill an encoder; count the tensors, and name those that stay new."""
    may_lack = ('ln2.weight', 'ln2.bias')  # not those of the blocks
    wanted = without_fixed(backbone.state_dict())
    for name in wanted.keys() - encoder.keys():
        if name in may_lack or name.endswith(stays_new):
            del wanted[name]
    state = {**encoder, **weights.unknown()}
    num_heads = getattr(backbone, 'arch_settings', {}).get('num_heads')
    fitting = _select(wanted, state, weights, partial, num_heads)
    backbone.load_state_dict(fitting, strict=False)
    return len(fitting), sorted(wanted.keys() - fitting.keys())


def _select(
    wanted: StateDict,
    state: StateDict,
    weights: Weights,
    partial: bool,
    num_heads: int | None,
) -> StateDict:
    """Return all tensors, or only those that fit if ``partial``."""
    if not partial:
        hint = _SAME_CONFIG
        if state.keys() != wanted.keys():
            hint = weights.needed_options(num_heads)
        elif _kernel(state) != _kernel(wanted):
            hint = _RESIZE
        elif state[_PATCHES].shape[1] != wanted[_PATCHES].shape[1]:
            hint = _CHANNELS
        check_fit(wanted, state, weights.file, hint)
        return state
    fitting = {
        name: value
        for name, value in state.items()
        if name in wanted and wanted[name].shape == value.shape
    }
    if not fitting:
        raise CheckpointError(
            f'The checkpoint {weights.file} does not fit the model: none of '
            f'its {len(state)} encoder tensors does ({some(state)}); '
            f'check which model it is of; see {Trouble.NO_FIT}.'
        )
    _refuse_half_blocks({**wanted, **state}, fitting, weights.file)
    return fitting


def _refuse_half_blocks(
    known: StateDict, fitting: StateDict, file: str | Path
) -> None:
    """Refuse to fill a part of a block: its features would mean nothing.

    Raises:
        CheckpointError: naming the tensors that do not fit.
    """
    begun = {*blocks_of(fitting, '')}
    missing = [
        name
        for name in known.keys() - fitting.keys()
        if {*blocks_of([name], '')} & begun
    ]
    if missing:
        raise CheckpointError(
            f'The checkpoint {file} fits only a part of some blocks: '
            f'{len(missing)} tensors do not fit ({some(sorted(missing))}); '
            'partial=True takes whole blocks only, so build the backbone '
            'with the options of the file.'
        )


def fill_pretrained(
    backbone: nn.Module, source: str | Mapping[str, Any], **defaults: Any
) -> None:
    """Fill an encoder as the ``pretrained`` argument of a backbone asks.

    Args:
        backbone (nn.Module): the encoder to fill.
        source (str | Mapping[str, Any]): a file, or arguments of
            :func:`load_backbone` such as
            ``dict(file=..., branch='target')``.
        **defaults: other arguments of :func:`load_backbone`, which
            ``source`` overrides.

    Raises:
        CheckpointError: see :func:`load_backbone`.
    """
    given = source if isinstance(source, Mapping) else dict(file=source)
    load_backbone(backbone, **{**defaults, **given})


def refuse_init_cfg(name: str, init_cfg: Any) -> None:
    """Refuse an ``init_cfg`` of type 'Pretrained'.

    MMEngine loads it before the initialisation of our parts, which would
    overwrite it.

    Args:
        name (str): the class name of the part.
        init_cfg (dict | list | None): its ``init_cfg``.

    Raises:
        SimimError: for the type 'Pretrained'.
    """
    cfgs = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    if any(cfg and cfg['type'] == 'Pretrained' for cfg in cfgs):
        raise SimimError(
            f'{name} takes no init_cfg of type Pretrained, since its own '
            'initialisation follows it; use pretrained=FILE of the backbone '
            'or of SiameseIM.'
        )


def load_weights(
    model: nn.Module,
    file: str | Path,
    content: Mapping[str, Any] | None = None,
) -> None:
    """Fill every part of a model, and log the parts that it does not have.

    A pretraining checkpoint thus fills a frozen encoder, a fine-tuned one its
    classifier. :func:`load_backbone` explains positions and norms.

    Args:
        model (nn.Module): a model with a ``backbone``.
        file (str | Path): see :func:`load_backbone`.
        content (Mapping[str, Any], optional): the file's content, if it is
            read already.

    Raises:
        CheckpointError: if the file is unsafe or broken, or any tensor of
            any part of the model is missing, mis-shaped or unknown.
    """
    content = read_checkpoint(file) if content is None else content
    if load_adapters(model, content, file):
        return
    weights = read_weights(file, content=content)
    weights.state.pop(UNREAD, None)
    wanted = without_fixed(model.state_dict())
    parts = {name.partition('.')[0] for name in wanted} | {'unknown'}
    dropped = _groups(weights, parts)
    state: dict[str, Tensor] = {}
    resized: list[str] = []
    backbone: Any = getattr(model, 'backbone', None)
    if hasattr(backbone, 'pos_embed'):
        _check_untraced(backbone, weights)
        encoder = weights.part('backbone')
        resized, norms = _adapt(backbone, encoder, weights)
        dropped += norms
        parts.remove('backbone')
        state = {f'backbone.{name}': x for name, x in encoder.items()}
    state |= {
        name: value
        for name, value in weights.state.items()
        if name.partition('.')[0] in parts
    }
    check_fit(wanted, state, file)
    model.load_state_dict(state, strict=False)  # without fixed buffers
    if backbone is not None:
        backbone.loaded_family = weights.family.name
    _report(len(state), weights, 'online', resized, dropped)


def load_model(
    model: Any, path: str | Path, channels: str | None = None
) -> None:
    """Fill a whole SiameseIM model from a file of ours or a released one.

    Args:
        model (nn.Module): the :class:`SiameseIM` to fill.
        path (str | Path): a checkpoint of this package (``state_dict``) or
            of the released code (``model``).
        channels (str, optional): as in :func:`load_backbone`.

    Raises:
        CheckpointError: if any tensor is missing, mis-shaped or unknown.
    """
    weights = read_weights(path)
    _check_untraced(model.backbone, weights)
    state = weights.state
    state.pop(UNREAD, None)
    new = model.get_parameter(f'backbone.{_PATCHES}').shape[1]
    adapted = adapt_all_channels(state, new, channels)
    hint = _CHANNELS if adapted and channels is None else _SAME_CONFIG
    check_fit(model.state_dict(), state, path, hint)
    model.load_state_dict(state)
    line = f'Loaded all {len(state)} tensors of {path}'
    if adapted:
        line += f'; patch kernels adapted to {new} channels ({channels})'
    print_log(clean(line), 'current')


def start_from(model: Any, source: str | Mapping[str, Any]) -> bool:
    """Start a pretraining from a file, and log what it fills.

    A whole SiameseIM model fills all parts. Any other file fills the online
    encoder.

    Args:
        model (nn.Module): the :class:`SiameseIM` to fill.
        source (str | Mapping[str, Any]): a file, or arguments of
            :func:`load_backbone`. Others than ``file`` and ``channels``
            fill the encoder alone.

    Returns:
        bool: whether the file filled all parts.

    Raises:
        CheckpointError: see :func:`load_model` and :func:`load_backbone`.
    """
    given = source if isinstance(source, Mapping) else dict(file=source)
    if given.keys() <= {'file', 'channels'}:
        parts = _groups(read_weights(given['file']), set())
        if {'projector', 'neck', 'target'} <= {*parts}:
            load_model(model, given['file'], given.get('channels'))
            return True
    fill_pretrained(model.backbone, source)
    print_log(
        'The target encoder starts from the same weights; the projector and '
        'the decoder are new',
        'current',
    )
    return False


def check_fit(
    wanted: StateDict,
    state: StateDict,
    path: str | Path,
    hint: str = _SAME_CONFIG,
) -> None:
    """Refuse tensors that are not exactly the wanted ones.

    Args:
        wanted (Mapping[str, Tensor]): the state dict of the model.
        state (Mapping[str, Tensor]): the tensors to load.
        path (str | Path): the file that holds ``state``.
        hint (str): a clause with what to do.

    Raises:
        CheckpointError: if any tensor is missing, mis-shaped or unknown.
    """
    shared = wanted.keys() & state.keys()
    faults = {
        'missing': wanted.keys() - state.keys(),
        'of another shape': {
            n for n in shared if wanted[n].shape != state[n].shape
        },
        'unknown': state.keys() - wanted.keys(),
    }
    if any(faults.values()):
        listing = '; '.join(
            f'{len(names)} {kind} ({some(sorted(names))})'
            for kind, names in faults.items()
            if names
        )
        raise CheckpointError(
            f'The checkpoint {path} does not fit the model: of '
            f'{len(wanted)} tensors {listing}; {hint}; see '
            f'{Trouble.NO_FIT}.'
        )


def _check_untraced(backbone: Any, weights: Weights) -> None:
    """Refuse a backbone of other options than a file states.

    These options leave no trace in the tensors, which would load and compute
    other features.

    Raises:
        CheckpointError: naming the setting.
    """
    _check_rotary(backbone, weights)
    arch = getattr(backbone, 'arch_settings', {})
    rows = (
        ('{} attention heads', weights.stated_heads, arch.get('num_heads')),
        (
            'the activation {}',
            stated_activation(weights.about, weights.file),
            activation_of(backbone),
        ),
    )
    for words, stated, own in rows:
        if stated and own and stated != own:  # 0 and '' are not known
            raise CheckpointError(
                f'The checkpoint {weights.file} was trained with '
                f'{words.format(stated)}, and the backbone has {own}; '
                f'{weights.needed_options(None)}.'
            )


def _check_rotary(backbone: Any, weights: Weights) -> None:
    """Refuse rotary positions that a file does not have.

    They leave no trace in the tensors. A file of this package that does not
    state them has those of its config.

    Raises:
        CheckpointError: naming the setting.
    """
    rotary = getattr(backbone, 'rotary', None)
    kind = '' if rotary is None else rotary.kind
    wanted = weights.rotary
    stated = BACKBONE in weights.about or FAMILY in weights.about
    if kind != wanted and (stated or weights.form.name != OURS.name):
        raise CheckpointError(
            f'The checkpoint {weights.file} is of {weights.family.name}, '
            f'which needs rotary={wanted or None!r} in the backbone, not '
            f'{kind or None!r}; '
            f'{weights.needed_options(None)}.'
        )


def _adapt(
    backbone: VisionTransformer,
    encoder: dict[str, Tensor],
    weights: Weights,
    resize_patches: bool = False,
    grid: Grid | None = None,
) -> tuple[list[str], list[str]]:
    """Adapt a file's encoder tensors to a backbone, in place.

    Returns:
        tuple[list[str], list[str]]: a description of each resized tensor,
        and the group of each dropped one.
    """
    wanted = backbone.state_dict()
    resized, dropped = [], []
    for name in [*encoder]:
        norm = name.partition('.')[0]
        if norm in _NORMS and name not in wanted:
            del encoder[name]
            dropped.append(_NORMS[norm])
    extra = int('cls_token' in wanted)
    table = encoder.get('pos_embed')
    grid = grid or weights.grid
    goal = tuple(getattr(backbone, 'patch_resolution', ()))
    if table is not None and 'cls_token' in encoder:
        table = weights.with_row(table, grid, goal)
    if not extra and encoder.pop('cls_token', None) is not None:
        dropped.append('cls token')
        table = None if table is None else table[:, 1:]
    resized += _adapt_bias(backbone, encoder, weights, grid)
    _zero_biases(wanted, encoder)
    if table is not None and not weights.unknown():
        ours = weights.form.name == OURS.name
        found = grid_of(table[0, extra:], weights.file, grid, goal, ours)
        if found != goal:
            antialias = getattr(backbone, 'interpolate_antialias', False)
            patches = resize_table(
                table[:, extra:], found, goal, antialias=antialias
            )
            table = torch.cat([table[:, :extra], patches], dim=1)
            resized.append(f'positions {_change(found, goal)}')
    if table is not None:
        encoder['pos_embed'] = table
    old, new = _kernel(encoder), _kernel(wanted)
    if resize_patches and len(old) == len(new) and old != new:
        kernels = encoder[_PATCHES].float()  # (C, 3, H, W)
        encoder[_PATCHES] = F.interpolate(kernels, new, mode='bicubic')
        resized.append(f'patch kernel {_change(old, new)}')
    return resized, dropped


def _adapt_bias(
    backbone: VisionTransformer,
    encoder: dict[str, Tensor],
    weights: Weights,
    grid: Grid | None,
) -> list[str]:
    """Resize tables of relative position bias in place; describe it."""
    wanted = backbone.state_dict()
    names = [
        name
        for name in encoder
        if name.endswith('bias_table') and name in wanted
    ]
    if not names:
        return []
    new = tuple(backbone.patch_resolution)
    ours = weights.form.name == OURS.name
    old = bias_grid(encoder[names[0]], weights.file, grid, new, ours)
    if old == new:
        return []
    for name in names:
        encoder[name] = resize_bias(encoder[name], old, new)
    return [f'relative bias {_change(old, new)}']


def _zero_biases(wanted: StateDict, encoder: dict[str, Tensor]) -> None:
    """Fill query, key and value biases that no block of the file has."""
    names = [name for name in wanted if name.endswith('.attn.qkv.bias')]
    if not any(name in encoder for name in names):
        encoder |= {name: torch.zeros_like(wanted[name]) for name in names}


def _adapt_channels(
    backbone: VisionTransformer, encoder: dict[str, Tensor], how: str
) -> list[str]:
    """Adapt patch kernels of other channels in place; describe it."""
    kernels = encoder.get(_PATCHES)
    new = backbone.patch_embed.projection.weight.shape[1]
    if kernels is None or kernels.shape[1] == new:
        return []
    encoder[_PATCHES] = adapt_channels(kernels, new, how)
    return [f'channels {kernels.shape[1]} -> {new} ({how})']


def _kernel(state: StateDict) -> tuple[int, ...]:
    """Return the patch height and width in pixels, or () without patches."""
    return tuple(state[_PATCHES].shape[2:]) if _PATCHES in state else ()


def _change(old: tuple[int, ...], new: tuple[int, ...]) -> str:
    return ' -> '.join('x'.join(map(str, size)) for size in (old, new))


def _groups(weights: Weights, kept: set[str]) -> list[str]:
    """Return the group of each tensor outside the kept groups."""
    groups = [name.partition('.')[0] for name in weights.state]
    return [group for group in groups if group not in kept]


def _report(
    loaded: int,
    weights: Weights,
    branch: str,
    resized: list[str],
    dropped: list[str],
    left_out: list[str] | None = None,
) -> None:
    """Log what was loaded, interpolated and dropped, in one line."""
    line = (
        f'Loaded {loaded} tensors of {weights.file} ({weights.form.name} '
        f'names, {branch} branch)'
    )
    if weights.choice:
        line += f'; {weights.choice}'
    if weights.form.name not in (OURS.name, OFFICIAL.name):
        line += f'; {described(weights.family)}'
    if resized:
        line += f'; interpolated: {", ".join(resized)}'
    if dropped:
        counts = Counter(dropped).items()
        groups = ', '.join(f'{group} {count}' for group, count in counts)
        line += f'; dropped: {groups}'
    if 'final norm' in dropped:
        line += ' (final_norm=True keeps the final norm)'
    if left_out:
        line += f'; NOT filled: {len(left_out)} ({some(left_out)})'
    print_log(clean(line), 'current')
