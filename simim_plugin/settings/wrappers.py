"""Rules of wrappers for several processes and of recomputed activations."""

from __future__ import annotations

from collections.abc import Iterator

from .whole import Faults, Whole

_SHARDS = 'model_wrapper_cfg of type FullyShard'


def copies(whole: Whole) -> Faults:
    """A static graph of DDP needs an exchange of gradients in every step."""
    wrapper = whole.at('model_wrapper_cfg')
    optimizer = whole.at('optim_wrapper')
    if wrapper is None or not wrapper.get('static_graph'):
        return
    count = optimizer.get('accumulative_counts', 1) if optimizer else 1
    if count > 1:
        yield (
            'model_wrapper_cfg.static_graph is True, and only one of '
            f'{count} accumulated steps exchanges gradients, so the graph '
            'changes; set static_graph to False, or '
            'optim_wrapper.accumulative_counts to 1.'
        )


def optimizer_shards(whole: Whole) -> Faults:
    """Only the main process writes a checkpoint."""
    for part in whole.named('ZeroRedundancyOptimizer'):
        yield (
            f'{part.path} shares its state with the other processes, which '
            'do not take part in writing a checkpoint; set its type to '
            "AdamW, and model_wrapper_cfg to dict(type='FullyShard') if the "
            'memory is short.'
        )


def shards(whole: Whole) -> Faults:
    """The settings that exclude shards of a model."""
    wrapper = whole.at('model_wrapper_cfg')
    if wrapper is not None and 'FullyShard' in wrapper.names:
        for words in _against_shards(whole):
            yield f'{_SHARDS} {words}.'


def _against_shards(whole: Whole) -> Iterator[str]:
    backbone = whole.at('model.backbone')
    if backbone is not None and 'PlainViT' not in backbone.names:
        yield (
            'shares the blocks of a SiameseIMViT, and model.backbone is '
            f'{backbone.kind!r}; remove it'
        )
    for name in ('val_cfg', 'test_cfg'):
        if whole.settings.get(name) is not None:
            yield (
                f'cannot validate or test; set {name}, its dataloader and '
                'its evaluator to None'
            )
    if whole.settings.get('compile'):
        yield 'cannot be compiled; remove compile'
    optimizer = whole.at('optim_wrapper')
    scaled = {'AmpOptimWrapper', 'ApexOptimWrapper'}
    if optimizer is not None and scaled & {*optimizer.names}:
        yield (
            'has no gradient scaler; set optim_wrapper.type to '
            'AutocastOptimWrapper, which needs none'
        )
    for part in whole.named('Lamb'):
        yield (
            f'has no whole tensors, whose norms Lamb needs; set {part.path}'
            '.type to AdamW or LARS'
        )
    for hook in whole.named('EMAHook'):
        yield f'cannot be copied, which {hook.path} does; remove the hook'


def kept_activations(whole: Whole) -> Faults:
    """Our encoders recompute their own blocks."""
    backbone = whole.at('model.backbone')
    if backbone is None or not whole.settings.get('activation_checkpointing'):
        return
    if {'PlainViT', 'SiameseIMViTDet'} & {*backbone.names}:
        yield (
            "activation_checkpointing is mmengine's, which lets BatchNorm "
            'count a batch twice and gives a backbone on images no gradient; '
            'remove it, and set model.backbone.with_cp to True.'
        )
