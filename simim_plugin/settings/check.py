"""The check of a whole config, in three steps."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mmengine.registry import (
    DATA_SAMPLERS,
    MODEL_WRAPPERS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
)
from mmengine.runner import BaseLoop

from ..errors import SimimError, Trouble
from .agreements import AGREEMENTS, WARNINGS
from .forms import check_forms
from .names import RUNNER, nearest, unread_names
from .parts import CLIPS, Part, find_parts, found, known_names, root_of
from .rules import RULES, Rule
from .signatures import accepted, default_of, parameter_of, read_of
from .whole import Faults, Whole

_PROPOSALS = frozenset({'nms_pre', 'max_per_img', 'nms', 'min_bbox_size'})
_READ_BY_KEY: dict[str, frozenset[str]] = {
    'auto_scale_lr': frozenset({'base_batch_size', 'enable'}),
    'env_cfg': frozenset(
        {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}
    ),
    'env_cfg.mp_cfg': frozenset({'mp_start_method', 'opencv_num_threads'}),
    'env_cfg.dist_cfg': frozenset(
        {
            *('backend', 'timeout', 'init_backend', 'init_method', 'port'),
            *('world_size', 'rank', 'store', 'group_name', 'pg_options'),
            'device_id',
        }
    ),
    'optim_wrapper.paramwise_cfg': frozenset(
        {
            *('custom_keys', 'bias_lr_mult', 'bias_decay_mult'),
            *('norm_decay_mult', 'dwconv_decay_mult', 'flat_decay_mult'),
            *('bypass_duplicate', 'dcn_offset_lr_mult', 'layer_decay_rate'),
            *('num_layers', 'decay_rate', 'decay_type'),
        }
    ),
}
"""Dictionaries of which mmengine reads single keys and ignores others."""

_PASSED: dict[Any, frozenset[str]] = {
    OPTIMIZERS: frozenset({'params'}),
    PARAM_SCHEDULERS: frozenset({'optimizer'}),
    DATA_SAMPLERS: frozenset({'dataset', 'sampler'}),
    MODEL_WRAPPERS: frozenset({'module'}),
}

_READ_BY_MODEL: dict[str, dict[str, frozenset[str]]] = {
    'TwoStageDetector': {
        'model.train_cfg': frozenset({'rpn', 'rpn_proposal', 'rcnn'}),
        'model.test_cfg': frozenset({'rpn', 'rcnn'}),
        'model.train_cfg.rpn': frozenset(
            {'assigner', 'sampler', 'allowed_border', 'pos_weight', 'debug'}
        ),
        'model.train_cfg.rpn_proposal': _PROPOSALS,
        'model.test_cfg.rpn': _PROPOSALS,
        'model.train_cfg.rcnn': frozenset(
            {'assigner', 'sampler', 'mask_size', 'pos_weight', 'debug'}
        ),
        'model.test_cfg.rcnn': frozenset(
            {'score_thr', 'nms', 'max_per_img', 'mask_thr_binary'}
        ),
    },
    'EncoderDecoder': {
        'model.test_cfg': frozenset({'mode', 'crop_size', 'stride'}),
    },
    'CocoDataset': {
        'train_dataloader.dataset.filter_cfg': frozenset(
            {'filter_empty_gt', 'min_size'}
        ),
    },
}
"""The same, of the models and the data sets of our configs."""

_READERS = {
    'TwoStageDetector': {
        'model': {'FasterRCNN', 'MaskRCNN', 'CascadeRCNN'},
        'model.roi_head': {'StandardRoIHead', 'CascadeRoIHead'},
        'model.rpn_head': {'RPNHead', 'Float32RPNHead'},
    },
    'EncoderDecoder': {'model': {'EncoderDecoder'}},
    'CocoDataset': {
        'train_dataloader.dataset': {
            *('CocoDataset', 'CheckedCocoDataset'),
            *('LVISV1Dataset', 'CheckedLVISDataset'),
        }
    },
}
"""The classes that read these keys and no others; a subclass may."""


def check_settings(settings: Mapping, text: str = '') -> list[str]:
    """Check every setting of a config.

    Args:
        settings (Mapping): the arguments of a Runner, and other names of the
            config.
        text (str): the config files. A name that is in none of them was
            given by ``--cfg-options``.

    Returns:
        list[str]: warnings about names that nothing reads.

    Raises:
        SimimError: for a wrong setting, with a sentence for each.
    """
    settings = dict(settings)  # a Config is no Mapping
    check_forms(settings)
    scope = settings.get('default_scope', 'mmengine')
    whole = Whole(settings, find_parts(settings, scope))
    for step in (_names, _values, _odd_values):
        _refuse(step(whole))
    faults, failed = _results(AGREEMENTS, whole)
    _refuse(faults)
    warnings, failed_too = _results(WARNINGS, whole)
    return [
        *unread_names(settings, text, _READ_BY_KEY),
        *_unread_keys(whole),
        *_ignored(whole),
        *warnings,
        *failed,
        *failed_too,
    ]


def _refuse(faults: Iterable[str]) -> None:
    sentences = list(dict.fromkeys(faults))
    if sentences:
        raise SimimError(' '.join(sentences))


def _names(whole: Whole) -> Iterator[str]:
    for part in whole.parts:
        yield from _unknown_type(part)
        yield from _unknown_arguments(part)
        yield from _incomplete_clip(part)
        yield from _unknown_arch(part)
    wrapper = whole.at('optim_wrapper')
    constructor = wrapper and wrapper.get('constructor')
    if isinstance(constructor, str):
        registry = OPTIM_WRAPPER_CONSTRUCTORS
        scope = whole.settings.get('default_scope')
        with registry.switch_scope_and_registry(scope) as registry:
            if found(registry, constructor) is None:
                yield (
                    f'There is no {constructor!r} for '
                    'optim_wrapper.constructor; '
                    f'{nearest(constructor, known_names(registry))}.'
                )


def _unknown_type(part: Part) -> Iterator[str]:
    if part.registry is None or part.made is not None:
        return
    advice = nearest(part.kind.rpartition('.')[2], known_names(part.registry))
    yield (
        f'There is no {part.kind!r} for {part.path}; {advice}; see '
        f'{Trouble.NOT_IN_REGISTRY}.'
    )


def _unknown_arguments(part: Part) -> Iterator[str]:
    """Yield arguments that a class or function does not accept.

    A dictionary counts if it is certain that mmengine builds from it. Other
    code may read some names of other dictionaries before it builds.
    """
    clips = part.made in CLIPS.values()
    certain = part.registry is not None or part.kind is None or clips
    known = accepted(part.made) if part.made and certain else None
    if known is None:
        return
    known -= _passed(part)
    removal = 'remove it'
    if not any(map(str.isdigit, part.path.split('.'))):  # lists replace
        removal += f', or set {part.path}._delete_=True to inherit nothing'
    for name in part.settings.keys() - known - part.also:
        yield (
            f'{part.path}.{name} is no setting of '
            f'{getattr(part.made, "__name__", part.kind)}; '
            f'{nearest(name, known, removal)}.'
        )


def _incomplete_clip(part: Part) -> Iterator[str]:
    """The limit that a function which clips gradients needs."""
    made = part.made
    if made is None or made not in CLIPS.values():
        return
    parameters = inspect.signature(made).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty}
    for name in needed - _passed(part) - part.settings.keys():
        yield f'{part.path} lacks {name}, which {made.__name__} needs; set it.'


def _passed(part: Part) -> frozenset[str]:
    """Arguments that mmengine itself passes."""
    if inspect.isclass(part.made) and issubclass(part.made, BaseLoop):
        return frozenset({'runner', 'dataloader', 'evaluator'})
    if part.made in CLIPS.values():
        return frozenset({'parameters'})
    return _PASSED.get(root_of(part.registry), frozenset())


def _unknown_arch(part: Part) -> Iterator[str]:
    """The name or the keys of a ViT's ``arch``."""
    arch = part.get('arch')
    known = getattr(part.made, 'arch_zoo', None)
    own = any(name.startswith('SiameseIM') for name in part.names)
    # Other classes extend their list when they are built.
    if not (own or part.names[0] in ('VisionTransformer', 'MAEViT')):
        return
    if not isinstance(known, dict) or arch is None:
        return
    if isinstance(arch, str):
        if arch not in known and arch.lower() not in known:
            yield (
                f'{part.path}.arch is {arch!r}; {nearest(arch, list(known))}.'
            )
    elif own:
        needed = {
            *('embed_dims', 'num_layers', 'num_heads'),
            'feedforward_channels',
        }
        allowed = needed | {'global_attn_indexes'}
        for name in arch.keys() - allowed:
            yield (
                f'{part.path}.arch.{name} is no setting of an encoder; '
                f'{nearest(name, allowed)}.'
            )
        missing = sorted(needed - arch.keys())
        if missing:
            yield f'{part.path}.arch lacks {", ".join(missing)}; set them.'


def _values(whole: Whole) -> Iterator[str]:
    for part in whole.parts:
        for name, value in part.settings.items():
            yield from _wrong_value(part, _owners(part), name, value)
        arch = part.get('arch')
        if isinstance(arch, Mapping):
            for name, value in arch.items():
                yield from _wrong_value(part, ('arch',), name, value, 'arch.')
    for path in _READ_BY_KEY:
        for name, value in _below(whole.settings, path).items():
            rule = RULES.get(f'{path.rpartition(".")[2]}.{name}')
            if rule and not rule.holds(value):
                yield _sentence(f'{path}.{name}', value, rule.words)


def _odd_values(whole: Whole) -> Iterator[str]:
    """Yield values that no setting has: not-a-number, and words for yes."""
    for part in whole.parts:
        for name, value in part.settings.items():
            if part.made and not _may_be(value, part.made, name):
                yield _sentence(f'{part.path}.{name}', value, 'True or False')
    for name in RUNNER & whole.settings.keys():
        for path in _not_numbers(whole.settings[name], name):
            yield f'{path} is nan; set it to a number.'


def _may_be(value: Any, made: Callable, name: str) -> bool:
    """Return False for a text or a number in the place of True or False."""
    parameter = parameter_of(made, name)
    if parameter is None or not isinstance(parameter.default, bool):
        return True
    if parameter.annotation in (bool, 'bool'):
        return value is None or isinstance(value, bool)
    words = ('yes', 'no', 'on', 'off', 'true', 'false', 'maybe', 'none')
    return not (isinstance(value, str) and value.lower() in words)


def _not_numbers(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, float) and math.isnan(value):
        yield path
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    for key, item in pairs:
        yield from _not_numbers(item, f'{path}.{key}')


def _wrong_value(
    part: Part, owners: Iterable[str], name: str, value: Any, below: str = ''
) -> Iterator[str]:
    rule = _rule(owners, name)
    if rule is None:
        return
    default = default_of(part.made, name) if part.made else ...
    as_default = type(value) is type(default) and value == default
    if not (rule.holds(value) or as_default):
        yield _sentence(f'{part.path}.{below}{name}', value, rule.words)


def _rule(owners: Iterable[str], name: str) -> Rule | None:
    """Return the rule of the first owner that has one for a setting."""
    rules = (RULES.get(f'{owner}.{name}') for owner in owners)
    return next(filter(None, rules), None)


def rule_of(settings: Mapping, key: str) -> Rule | None:
    """Return the rule of a setting, None if it has none.

    Args:
        settings (Mapping): of a Runner.
        key (str): dotted, such as ``optim_wrapper.loss_scale``.
    """
    path, _, name = key.rpartition('.')
    for part in find_parts(settings, settings.get('default_scope')):
        if part.path == path:
            return _rule(_owners(part), name)
    return None


def _owners(part: Part) -> tuple[str, ...]:
    return (*part.names, part.path.rpartition('.')[2], '*')


def _sentence(path: str, value: Any, words: str) -> str:
    return f'{path} is {value!r}; set it to {words}.'


def _results(
    compare: Iterable[Callable[[Whole], Faults]], whole: Whole
) -> tuple[list[str], list[str]]:
    """Return what comparisons find, and a warning for each that fails.

    A value in a form that a comparison does not know must neither end a run
    nor hide that nothing was compared.
    """
    found: list[str] = []
    failed: list[str] = []
    for one in compare:
        try:
            for sentence in one(whole):
                found.append(sentence)
        except Exception as error:
            failed.append(
                f'{one.__name__} of the check of settings failed '
                f'({type(error).__name__}: {error}), so that what it compares '
                'is unchecked; please report it.'
            )
    return found, failed


def _below(settings: Mapping, path: str) -> Mapping:
    """Return the dictionary at a dotted path, empty if there is none."""
    inner: Any = settings
    for name in path.split('.'):
        inner = inner.get(name) if isinstance(inner, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _ignored(whole: Whole) -> Iterator[str]:
    """Warn about settings of classes that ignore what they do not know."""
    for part in whole.parts:
        known = read_of(part.made) if part.made else None
        if known is None:
            continue
        for name in part.settings.keys() - known - part.also:
            yield (
                f'Nothing reads the setting {part.path}.{name}; '
                f'{nearest(name, known, "remove it")}.'
            )


def _unread_keys(whole: Whole) -> Iterator[str]:
    read = dict(_READ_BY_KEY)
    for name, keys in _READ_BY_MODEL.items():
        if all(
            part is not None and part.names[0] in readers
            for path, readers in _READERS[name].items()
            for part in [whole.at(path)]
        ):
            read.update(keys)
    for path, known in read.items():
        for name in _below(whole.settings, path).keys() - known:
            close = difflib.get_close_matches(name, known, 1, 0.6)
            if close or path != 'optim_wrapper.paramwise_cfg':
                yield (
                    f'Nothing reads the setting {path}.{name}; '
                    f'{nearest(name, known, "remove it")}.'
                )
