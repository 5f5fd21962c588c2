"""Settings that must agree with each other.

Each function yields one sentence for each fault. The values of single
settings have been checked before. What a function does not know for certain,
it leaves alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import dense, losses, wrappers
from .channels import channels_of
from .forms import compiling, custom_keys
from .names import nearest
from .parts import Part
from .signatures import accepted, default_of
from .whole import Encoder, Faults, Whole, differs, pair, value_of

# Runs


def complete_loops(whole: Whole) -> Faults:
    """A loop, its data and what else it needs are set together."""
    for names in (
        ('train_cfg', 'train_dataloader', 'optim_wrapper'),
        ('val_cfg', 'val_dataloader', 'val_evaluator'),
        ('test_cfg', 'test_dataloader', 'test_evaluator'),
    ):
        missing = [n for n in names if whole.settings.get(n) is None]
        if 0 < len(missing) < 3:
            others = [n for n in names if n not in missing]
            yield (
                f'{" and ".join(missing)} must be set beside '
                f'{" and ".join(others)}; set all of them, or all to None.'
            )


def measured(whole: Whole) -> Faults:
    """A validation measures something."""
    if whole.settings.get('val_evaluator') in ([], ()):
        yield 'val_evaluator is empty; set its metrics, or val_cfg to None.'


def loader_workers(whole: Whole) -> Faults:
    """Two settings of a loader need worker processes."""
    for part in whole.named('DataLoader'):
        for name in ('prefetch_factor', 'persistent_workers'):
            if part.get(name) and not part.get('num_workers', 0):
                yield (
                    f'{part.path}.{name} is {part.get(name)} without worker '
                    f'processes; set {part.path}.num_workers to 1 or more, '
                    f'or {name} to {None if "fetch" in name else False}.'
                )


def warm_up(whole: Whole) -> Faults:
    """The warm-up ends before the run does."""
    run = whole.at('train_cfg')
    if run is None:
        return
    for part in whole.named('WarmupCosineLR'):
        by_epoch = part.get('by_epoch', True)
        name = 'max_epochs' if by_epoch else 'max_iters'
        if by_epoch and run.get('max_iters') and part.get('end') is None:
            yield (
                f'{part.path} counts epochs, and train_cfg iterations; set '
                f'{part.path}.by_epoch to False and warmup to iterations, or '
                'end to the number of epochs.'
            )
        length = part.get('end', run.get(name))
        if length is not None:
            length -= part.get('begin', 0)
        if length is not None and part.get('warmup', 0) > length:
            yield (
                f'{part.path}.warmup is {part.get("warmup")} and the run '
                f'ends after {length} {"epochs" if by_epoch else "steps"}; '
                f'set the warm-up to at most that, or train_cfg.{name} '
                'higher.'
            )


def seeded_samplers(whole: Whole) -> Faults:
    """A seeded sampler draws for the training loop that seeks in it."""
    sampler, run = whole.at('train_dataloader.sampler'), whole.at('train_cfg')
    if sampler is None or 'SeededSampler' not in sampler.names:
        return
    if run is not None and 'ExactEpochLoop' not in run.names:
        yield (
            f'train_dataloader.sampler is a {sampler.kind}, which draws for '
            'ExactEpochLoop alone; set train_cfg.type to ExactEpochLoop, or '
            'train_dataloader.sampler.type to DefaultSampler or '
            'InfiniteSampler.'
        )


_CONTRAST = {'ViTMoCoV3', 'ViTMSN', 'MaskedMoCoV3'}


def several_images(whole: Whole) -> Faults:
    """Heads with BatchNorm over images need more than one of them."""
    model, loader = whole.at('model'), whole.at('train_dataloader')
    alone = whole.settings.get('launcher') in (None, 'none')
    if model is None or loader is None or not _CONTRAST & {*model.names}:
        return
    if alone and loader.get('batch_size') == 1:
        yield (
            f'train_dataloader.batch_size is 1, and {model.kind} compares the '
            'images of a batch; set it to 2 or more.'
        )


def checkpoints(whole: Whole) -> Faults:
    """A checkpoint falls between optimizer steps."""
    wrapper = whole.at('optim_wrapper')
    accumulated = wrapper.get('accumulative_counts', 1) if wrapper else 1
    for part in whole.named('SafeCheckpointHook'):
        interval = part.get('interval', -1)
        counted = interval > 0 and not part.get('by_epoch', True)
        if counted and interval % accumulated:
            yield (
                f'A checkpoint every {interval} iterations falls between '
                f'optimizer steps of {accumulated} iterations; set '
                f'{part.path}.interval to a multiple of it.'
            )


def counted_checkpoints(whole: Whole) -> Faults:
    """A loop of iterations ends the epoch in which it counts none."""
    run = whole.at('train_cfg')
    if run is None or not _counts_iterations(run):
        return
    for part in whole.named('CheckpointHook'):
        if part.get('interval', -1) > 0 and part.get('by_epoch', True):
            yield (
                f'{part.path}.by_epoch is True, and train_cfg counts '
                'iterations, so that no checkpoint would be written before '
                'the end; set by_epoch to False and interval to iterations.'
            )


def _counts_iterations(run: Part) -> bool:
    """Return whether a training loop knows no epochs."""
    if run.get('type') is None:
        return run.get('by_epoch', True) is False
    return 'IterBasedTrainLoop' in run.names


def best_checkpoint(whole: Whole) -> Faults:
    """The best checkpoint is that of a validation."""
    for part in whole.named('CheckpointHook'):
        best = part.get('save_best')
        if best and whole.settings.get('val_cfg') is None:
            yield (
                f'{part.path}.save_best is {best!r} and the run has no '
                'validation; remove it, or set val_cfg.'
            )
        if part.get('rule') and not best:
            yield (
                f'{part.path}.rule is {part.get("rule")!r} without '
                'save_best; remove it, or set save_best.'
            )


def schedules(whole: Whole) -> Faults:
    """A schedule ends after it begins."""
    for part in whole.each('param_scheduler'):
        begin, end = part.get('begin', 0), part.get('end')
        if begin and end is not None and begin >= end:
            yield (
                f'{part.path}.begin is {begin} and end {end}; set end to '
                'more than begin.'
            )


def whole_steps(whole: Whole) -> Faults:
    """ExactEpochLoop has whole optimizer steps only."""
    loop, loader = whole.at('train_cfg'), whole.at('train_dataloader')
    exact = loop is not None and 'ExactEpochLoop' in loop.names
    if exact and loader is not None and loader.get('drop_last') is False:
        yield (
            'train_dataloader.drop_last is False, and an epoch of '
            'ExactEpochLoop is a whole number of optimizer steps; set it to '
            'True.'
        )


def needed_hooks(whole: Whole) -> Faults:
    """A logger needs a timer."""
    given = whole.settings.get('default_hooks') or {}
    if given.get('timer', 1) is None and given.get('logger', 1) is not None:
        yield (
            'default_hooks.timer is None, and the logger prints its times; '
            'leave it out, or set default_hooks.logger to None, too.'
        )


def logger_copies(whole: Whole) -> Faults:
    """Four settings of the logger are about a copy of the logs."""
    for part in whole.named('LoggerHook'):
        if part.get('out_dir') is not None or part.made is None:
            continue
        for name in (
            *('backend_args', 'file_client_args', 'keep_local', 'out_suffix'),
        ):
            default = default_of(part.made, name)
            if part.get(name, default) != default:
                yield (
                    f'{part.path}.{name} is for the copy of the logs in '
                    f'out_dir, which is not set; set {part.path}.out_dir, or '
                    f'remove {name}.'
                )


def training_sets(whole: Whole) -> Faults:
    """A training set is not in the mode of tests."""
    for place in ('train', 'test_cfg.train'):
        data = whole.at(f'{place}_dataloader.dataset')
        if data is not None and data.get('test_mode'):
            yield (
                f'{data.path}.test_mode is {data.get("test_mode")}, which '
                'turns filter_cfg and the choice of other images off; set it '
                'to False.'
            )


def pipelines(whole: Whole) -> Faults:
    """A data set has a pipeline."""
    for place in ('train', 'val', 'test', 'test_cfg.train'):
        data = whole.at(f'{place}_dataloader.dataset')
        if data is not None and data.get('pipeline', True) in ([], ()):
            yield (
                f'{data.path}.pipeline is empty, so that no image is read; '
                'set its transforms.'
            )


# Encoder


def vit(whole: Whole) -> Faults:
    """Heads divide the width, patches the image; blocks exist."""
    encoder = whole.encoder
    if encoder is None:
        return
    part = encoder.part
    if encoder.dims % encoder.heads:
        yield (
            f'{part.path} has {encoder.dims} channels and {encoder.heads} '
            'heads; set the channels to a multiple of the heads.'
        )
    own = any(name.startswith('SiameseIM') for name in part.names)
    if own and encoder.dims % 4:
        yield (
            f'{part.path} has {encoder.dims} channels; set a multiple of 4, '
            'which the sin-cos positions need.'
        )
    if own and any(
        side % patch
        for side, patch in zip(encoder.image, encoder.patch, strict=True)
    ):
        yield (
            f'{part.path}.img_size is {part.get("img_size")} and its '
            f'patch_size {value_of(part, "patch_size")}; set the image to a '
            'multiple of the patch.'
        )
    yield from blocks(encoder)


def blocks(encoder: Encoder) -> Faults:
    """Frozen and returned blocks exist."""
    part = encoder.part
    frozen = part.get('frozen_stages', -1)
    if isinstance(frozen, int) and frozen > encoder.layers:
        yield (
            f'{part.path}.frozen_stages is {frozen} and there are '
            f'{encoder.layers} blocks; set at most {encoder.layers}.'
        )
    arch = part.get('arch')
    windows = (
        arch.get('global_attn_indexes') if isinstance(arch, Mapping) else None
    )
    if any(not 0 <= i < encoder.layers for i in windows or ()):
        yield (
            f'{part.path}.arch.global_attn_indexes is {windows} and there '
            f'are {encoder.layers} blocks; set indices from 0 to '
            f'{encoder.layers - 1}.'
        )
    if part.get('out_indices') in ([], ()):
        yield f'{part.path}.out_indices is empty; set the blocks to return.'
    indices = part.get('out_indices') or ()
    indices = [indices] if isinstance(indices, int) else indices
    if any(not -encoder.layers <= i < encoder.layers for i in indices):
        yield (
            f'{part.path}.out_indices is {part.get("out_indices")} and there '
            f'are {encoder.layers} blocks; set indices from 0 to '
            f'{encoder.layers - 1}.'
        )


def channels(whole: Whole) -> Faults:
    """Loaders, statistics and encoder have the same number of channels."""
    backbone = whole.at('model.backbone')
    if backbone is None or whole.encoder is None:
        return
    count = channels_of(whole.settings)
    for part in whole.named('LoadRGBImage', 'LoadImage'):
        yield from differs(
            *(f'{part.path}.channels', part.get('channels', 3)),
            *('model.backbone.in_channels', count),
        )
    given = whole.at('model.data_preprocessor')
    for name in ('mean', 'std') if given else ():
        values = given.get(name)  # type: ignore[union-attr]
        if isinstance(values, Sequence) and len(values) not in (1, count):
            yield (
                f'model.data_preprocessor.{name} has {len(values)} values '
                f'and model.backbone.in_channels is {count}; set one value '
                'for each channel.'
            )
    for part in whole.parts:
        if count != 3 and str(part.kind).startswith('torchvision/'):
            yield (
                f'{part.path} is {part.kind}, which takes images of Pillow, '
                f'and model.backbone.in_channels is {count}; use a transform '
                'of MMPretrain or MMCV in its place.'
            )


def statistics(whole: Whole) -> Faults:
    """Images are normalised by a mean and a std of as many channels."""
    for path in ('model.data_preprocessor', 'data_preprocessor'):
        part = whole.at(path)
        given = [part and part.get(name) for name in ('mean', 'std')]
        sizes = [len(v) if isinstance(v, Sequence) else None for v in given]
        if sizes[0] != sizes[1]:
            yield (
                f'{path}.mean is {given[0]} and {path}.std is {given[1]}; '
                'set both, with one value for each channel, or neither.'
            )


def colour_order(whole: Whole) -> Faults:
    """Images of our encoders are RGB where they are normalised as RGB.

    MMCV's loaders give BGR, ours of pictures RGB; some settings swap them.
    """
    encoder = whole.encoder
    if encoder is None or not any(
        name.startswith('SiameseIM') for name in encoder.part.names
    ):
        return
    found = [
        whole.at('model.data_preprocessor'),
        whole.at('data_preprocessor'),
    ]
    given = next(filter(None, found), None)
    for steps in whole.pipelines().values():
        loader, bgr = None, False
        for step in steps:
            if {'LoadRGBImage', 'LoadImageFromFile'} & {*step.names}:
                loader, bgr = step, 'LoadRGBImage' not in step.names
            elif {'NumpyToPIL', 'PILToNumpy'} & {*step.names}:
                bgr ^= bool(step.get('to_rgb') or step.get('to_bgr'))
            elif bgr and {'PairedViews', 'MultiCropViews'} & {*step.names}:
                yield (
                    f'{step.path} changes colours as RGB, and its images are '
                    "BGR; load them by dict(type='LoadRGBImage')."
                )
                bgr = False
        if loader is not None and given is not None:
            yield from _normalised_order(loader, bgr, given)


def _normalised_order(loader: Part, bgr: bool, given: Part) -> Faults:
    """The order of the channels of images and of their mean."""
    mean = given.get('mean')
    if not isinstance(mean, Sequence) or len(mean) != 3 or mean[0] <= mean[2]:
        return
    known = (accepted(given.made) if given.made else None) or ()
    swap = 'bgr_to_rgb' if 'bgr_to_rgb' in known else 'to_rgb'
    swaps = bool(given.get('bgr_to_rgb') or given.get('to_rgb'))
    if bgr != swaps:
        yield (
            f'{given.path}.mean has red first, and with {swap}={swaps} the '
            f'images of {loader.path} have blue first; set {given.path}.'
            f'{swap} to {not swaps}.'
        )


_ONLY_WITH = (
    ('final_norm_affine', False, 'final_norm'),
    ('train_positions', True, 'absolute_positions'),
    ('interpolate_antialias', True, 'absolute_positions'),
)
"""Options of an encoder, their value, and the part that they change."""


def options_of_parts(whole: Whole) -> Faults:
    """An option of an encoder's part needs that part."""
    for part in whole.parts:
        for name, value, needed in _ONLY_WITH:
            if part.made is None or part.get(name) is not value:
                continue
            if not part.get(needed, default_of(part.made, needed)):
                yield (
                    f'{part.path}.{name}={value} has no effect without '
                    f'{needed}; set {needed}=True, too, or remove it.'
                )


def counted_images(whole: Whole) -> Faults:
    """No evaluation skips images, or reads some in the place of others."""
    for part in whole.named('DataLoader'):
        last = part.path.startswith(('val_', 'test_')) and part.path.endswith(
            ('val_dataloader', 'test_dataloader')
        )
        if last and part.get('drop_last'):
            yield (
                f'{part.path}.drop_last is {part.get("drop_last")}, and an '
                'evaluation counts every image; set it to False.'
            )
    for part in whole.parts:
        test = part.path.startswith(('val_', 'test_'))
        if test and part.get('skip_broken'):
            yield (
                f'{part.path}.skip_broken is {part.get("skip_broken")}, and '
                'an evaluation counts every image; set it for training sets '
                'only, and replace or remove the broken files here.'
            )


# Pretraining


def transformers(whole: Whole) -> Faults:
    """Heads divide the widths of projector and decoder."""
    for part in whole.named('TransformerProjector', 'RelativePositionDecoder'):
        dims = value_of(part, 'embed_dims')
        heads = value_of(part, 'num_heads')
        if dims % heads:
            yield (
                f'{part.path}.embed_dims is {dims} and num_heads is {heads}; '
                'set the channels to a multiple of the heads.'
            )
        if 'RelativePositionDecoder' in part.names and dims % 4:
            yield (
                f'{part.path}.embed_dims is {dims}; set a multiple of 4, '
                'which the sin-cos positions need.'
            )


def visible_patches(whole: Whole) -> Faults:
    """The encoder of SiameseIM encodes the visible patches alone."""
    model, backbone = whole.at('model'), whole.at('model.backbone')
    kinds: tuple[Any, ...] = getattr(model and model.made, '__mro__', ())
    method = next((k for k in kinds if k.__name__ == 'SiameseIM'), None)
    if method is None or kinds[0].loss is not method.loss:
        return  # a loss of its own may call the encoder in another way
    forward = getattr(backbone and backbone.made, 'forward', None)
    if backbone is None or forward is None:
        return
    taken = [*inspect.signature(forward).parameters][2:3]
    if not taken or taken == ['mask']:
        yield (
            f'model.backbone is a {backbone.short}, and SiameseIM needs an '
            'encoder of visible patches; set model.backbone.type to '
            'SiameseIMViT, which builds the plain ViTs of docs/encoders.md, '
            'or to a subclass of it.'
        )


def predicting(whole: Whole) -> Faults:
    """A validation or a test needs a model that predicts."""
    model = whole.at('model')
    if model is None or 'BaseSelfSupervisor' not in model.names:
        return
    if hasattr(model.made, 'predict'):
        return
    for name, stock in (('val_cfg', 'ValLoop'), ('test_cfg', 'TestLoop')):
        loop = whole.at(name)
        if loop is not None and getattr(loop.made, '__name__', '') == stock:
            yield (
                f'{name} is set, and {model.short} predicts nothing that an '
                f'evaluator could compare; set {name}, its dataloader and '
                'its evaluator to None, and measure by the hook OnlineKNN.'
            )


def whole_branches(whole: Whole) -> Faults:
    """SiameseIM has all its parts, and a hook for its target branch."""
    model = whole.at('model')
    if model is None or not hasattr(model.made, 'update_target'):
        return
    for name in ('neck', 'head'):
        if name in model.settings and model.get(name) is None:
            yield f'model.{name} is None; {model.short} needs it: set it.'
    training = whole.settings.get('train_cfg') is not None
    if training and not whole.named('MomentumHook'):
        yield (
            'custom_hooks has no MomentumHook, which updates the target '
            f"branch of {model.short}; add dict(type='MomentumHook', "
            'base_momentum=0.995).'
        )


def branches(whole: Whole) -> Faults:
    """Encoder, projector, decoder and masks fit each other."""
    encoder = whole.encoder
    projector = whole.at('model.projector')
    neck = whole.at('model.neck')
    if encoder is None or neck is None:
        return
    if projector is not None and 'TransformerProjector' in projector.names:
        yield from differs(
            *('model.projector.in_dims', projector.get('in_dims')),
            *('the width of model.backbone', encoder.dims),
        )
        if 'RelativePositionDecoder' in neck.names:
            yield from differs(
                *('model.neck.embed_dims', value_of(neck, 'embed_dims')),
                'model.projector.embed_dims',
                value_of(projector, 'embed_dims'),
            )
    if 'RelativePositionDecoder' in neck.names:
        yield from differs(
            *('model.neck.grid', pair(neck.get('grid', (0, 0)))),
            *('the grid of patches of model.backbone', encoder.grid),
        )
    if 'MeanTokenNeck' in neck.names:
        yield from differs(
            *('model.neck.in_channels', neck.get('in_channels')),
            *('the width of model.backbone', encoder.dims),
        )
    if neck.names[0] == 'MAEPretrainDecoder':
        rows, columns = encoder.grid
        yield from differs(
            *('model.neck.embed_dim', value_of(neck, 'embed_dim')),
            *('the width of model.backbone', encoder.dims),
        )
        yield from differs(
            *('model.neck.num_patches', value_of(neck, 'num_patches')),
            *('the patches of model.backbone', rows * columns),
        )


_ALL_TOKENS = {'SiameseIM', 'MaskedMoCoV3', 'StudentTeacher', 'ViTBEiT'}


def pretrained_tokens(whole: Whole) -> Faults:
    """Pretraining takes all tokens of the last block."""
    backbone, model = whole.at('model.backbone'), whole.at('model')
    if not (backbone and model and _ALL_TOKENS & {*model.names}):
        return
    for name, only in (('out_type', 'raw'), ('out_indices', -1)):
        if backbone.get(name, only) != only:
            yield (
                f'model.backbone.{name} is {backbone.get(name)!r}, and '
                'pretraining takes all tokens of the last block; remove it.'
            )


def cls_tokens(whole: Whole) -> Faults:
    """An algorithm that compares cls tokens has one."""
    encoder, model = whole.encoder, whole.at('model')
    if encoder is None or model is None:
        return
    uses = getattr(model.made, 'uses_cls_token', False)
    if uses and not encoder.part.get('with_cls_token', True):
        yield (
            f'{model.short} compares cls tokens, and '
            f'{encoder.part.path}.with_cls_token is False; set it to True.'
        )


def pixels(whole: Whole) -> Faults:
    """A decoder of pixels predicts the values of a patch."""
    encoder, neck = whole.encoder, whole.at('model.neck')
    if encoder and neck and 'PixelDecoder' in neck.names:
        rows, columns = encoder.patch
        yield from differs(
            *('model.neck.out_dims', neck.get('out_dims')),
            'the values of a patch',
            channels_of(whole.settings) * rows * columns,
        )


_MASKING = {'SiameseIM', 'MaskedMoCoV3', 'ViTBEiT', 'ViTIBOT', 'ViTMSN'}


def masks(whole: Whole) -> Faults:
    """A mask leaves and hides patches of the encoder's grid."""
    model = whole.at('model')
    if model is None or not _MASKING & {*model.names}:
        return
    for part in whole.named('CropMasks'):
        if whole.encoder is not None:
            yield from differs(
                *(f'{part.path}.grid', pair(part.get('grid', 1))),
                'the grid of patches of model.backbone',
                whole.encoder.grid,
            )
        head = whole.at('model.head')
        if head is not None and 'DistillationHead' in head.names:
            yield from differs(
                *(f'{part.path}.num_global', value_of(part, 'num_global')),
                *('model.head.num_global', value_of(head, 'num_global')),
            )
    for part in whole.named('BlockwiseMask', 'RandomMask'):
        rows, columns = pair(part.get('grid', 1))
        masked = part.get('num_masked', 0)
        smallest = value_of(part, 'min_block') or 0
        if 'BlockwiseMask' in part.names and masked < smallest:
            yield (
                f'{part.path}.min_block is {smallest} and num_masked is '
                f'{masked}, so that no block fits; set min_block to at most '
                f'{masked}.'
            )
        if masked >= rows * columns:
            yield (
                f'{part.path}.num_masked is {masked} of {rows} x {columns} '
                f'patches; set it to 1 to {rows * columns - 1}, so that some '
                'are hidden and some are seen.'
            )
        small = whole.target_grid if part.get('key', 'mask') != 'mask' else ()
        if small:
            yield from differs(
                *(f'{part.path}.grid', (rows, columns)),
                *('model.neck.target_grid', pair(small)),
            )
        elif whole.encoder is not None:
            yield from differs(
                *(f'{part.path}.grid', (rows, columns)),
                'the grid of patches of model.backbone',
                whole.encoder.grid,
            )


def device_colours(whole: Whole) -> Faults:
    """Colours that are left to the device are applied there."""
    preprocessor = whole.at('model.data_preprocessor')
    loop = whole.at('train_cfg')
    on = preprocessor is not None and preprocessor.get('colours')
    if on and loop is not None and 'ExactEpochLoop' not in loop.names:
        yield (
            'model.data_preprocessor.colours needs '
            'train_cfg.type=ExactEpochLoop, which leaves the colours to it; '
            'set both, or remove it.'
        )
    for part in whole.named('PairedViews'):
        if part.get('defer'):
            yield (
                f'{part.path}.defer leaves out the colours; remove it, and '
                'set model.data_preprocessor.colours=True to apply them on '
                'the device.'
            )


def views(whole: Whole) -> Faults:
    """The views have the size of the encoder's images."""
    encoder = whole.encoder
    if encoder is None:
        return
    for part in whole.named('MultiCropViews', below='train_dataloader'):
        for crop in part.get('crops', ()):
            size = pair(crop.get('size', encoder.image))
            larger = max(size) > max(encoder.image)
            if larger or crop is part.get('crops')[0]:
                yield from differs(
                    *(f'The size of a global crop of {part.path}', size),
                    *('model.backbone.img_size', encoder.image),
                )
    for part in whole.named('PairedViews', below='train_dataloader'):
        yield from differs(
            *(f'{part.path}.size', pair(part.get('size', encoder.image))),
            *('model.backbone.img_size', encoder.image),
        )
        name = 'target_size' if part.get('target_size') else 'size'
        if whole.target_grid or name == 'target_size':
            grid = pair(whole.target_grid or encoder.grid)
            yield from differs(
                f'{part.path}.{name}',
                pair(part.get(name, encoder.image)),
                'model.neck.target_grid in pixels',
                (grid[0] * encoder.patch[0], grid[1] * encoder.patch[1]),
            )


# Classification

_SIZED = {
    'RandomResizedCrop': 'scale',
    'SingleDrawCrop': 'scale',
    'CenterCrop': 'crop_size',
    'RandomCrop': 'crop_size',
    'Resize': 'scale',
    'EvaluationCrop': 'size',
    'torchvision/Resize': 'size',
    'torchvision/RandomResizedCrop': 'size',
    'torchvision/RandomCrop': 'size',
    'torchvision/CenterCrop': 'size',
}
_SAME_SIZE = (
    *('RandomFlip', 'torchvision/RandomHorizontalFlip', 'PILToNumpy'),
    *('NumpyToPIL', 'RandAugment', 'AutoAugment', 'RandomErasing'),
    *('ColorJitter', 'FastColorJitter', 'FastGrayscale', 'PackInputs'),
    *('FastGaussianBlur', 'Solarize', 'torchvision/ToTensor'),
)


def final_size(
    pipeline: Sequence[Part],
) -> tuple[Part, str, tuple[int, int]] | None:
    """Return the transform that sets the size, the setting and the size.

    None if a later transform may change it, or none sets it.
    """
    for part in reversed(pipeline):
        if part.short in _SIZED:
            name = _SIZED[part.short]
            size = part.get(name)
            short_edge = part.short == 'torchvision/Resize'
            if part.get('keep_ratio') or not (
                (isinstance(size, int) and not short_edge)
                or (isinstance(size, Sequence) and len(size) == 2)
            ):
                return None
            return part, name, pair(size)
        if part.short not in _SAME_SIZE:
            return None
    return None


def image_sizes(whole: Whole) -> Faults:
    """Pipelines give a classifier's encoder images of its size."""
    encoder, model = whole.encoder, whole.at('model')
    if encoder is None or model is None:
        return
    own = any(n in encoder.part.names for n in ('SiameseIMViT', 'MAEViT'))
    if not own or not {'ImageClassifier', 'MAE'} & {*model.names}:
        return
    for transforms in whole.pipelines().values():
        last = final_size(transforms)
        if last is not None:
            part, name, size = last
            if sorted(size) != sorted(encoder.image):
                yield from differs(
                    *(f'{part.path}.{name}', size),
                    *('model.backbone.img_size', encoder.image),
                )


def square_images(whole: Whole) -> Faults:
    """OnlineKNN crops squares."""
    encoder = whole.encoder
    if encoder is not None and encoder.image[0] != encoder.image[1]:
        for part in whole.named('OnlineKNN'):
            yield (
                f'{part.path} is an OnlineKNN, which crops squares, and '
                f'model.backbone.img_size is {encoder.image}; remove the '
                'hook, or set a square size.'
            )


def classifier(whole: Whole) -> Faults:
    """A head fits the encoder and the preprocessor."""
    encoder, head = whole.encoder, whole.at('model.head')
    model, neck = whole.at('model'), whole.at('model.neck')
    if model is not None and 'ImageClassifier' in model.names:
        if whole.settings.get('train_cfg') and model.get('head') is None:
            yield 'model.head is None; a classifier that trains needs it.'
        kind = encoder and value_of(encoder.part, 'out_type')
        pooled = neck is not None and 'GlobalAveragePooling' in neck.names
        if pooled and kind in ('cls_token', 'avg_featmap', 'avg_all'):
            yield (
                f'model.neck pools a map, and model.backbone.out_type is '
                f'{kind!r}, one feature; remove the neck.'
            )
    if head is None or 'LinearClsHead' not in head.names:
        return
    if encoder is not None and whole.at('model.neck') is None:
        yield from differs(
            *('model.head.in_channels', head.get('in_channels')),
            *('the width of model.backbone', encoder.dims),
        )
        kind = value_of(encoder.part, 'out_type')
        if kind not in ('cls_token', 'avg_featmap', 'avg_all'):
            yield (
                f'model.backbone.out_type is {kind!r}, which is no feature '
                'of an image for model.head; set it to avg_featmap or '
                'cls_token.'
            )
    classes = head.get('num_classes')
    given = whole.at('model.data_preprocessor')
    if given is not None and whole.settings['model'].get('train_cfg'):
        yield from differs(  # mixed images have a share of every class
            *('model.head.num_classes', classes),
            *(f'{given.path}.num_classes', given.get('num_classes')),
        )


def counted_classes(whole: Whole) -> Faults:
    """ClassCountHook looks at parts that the model has."""
    model = whole.at('model')
    known = accepted(model.made) if model and model.made else None
    if model is None or known is None:
        return
    for hook in whole.named('ClassCountHook'):
        for part in hook.get('parts') or ():
            if part not in known:
                yield (
                    f'{hook.path}.parts names {part!r}, which {model.short} '
                    f'does not have; {nearest(part, known, "name its heads")}.'
                )


AGREEMENTS: tuple[Callable[[Whole], Faults], ...] = (
    logger_copies,
    training_sets,
    complete_loops,
    measured,
    loader_workers,
    warm_up,
    seeded_samplers,
    several_images,
    checkpoints,
    counted_checkpoints,
    best_checkpoint,
    schedules,
    whole_steps,
    compiling,
    wrappers.copies,
    wrappers.shards,
    wrappers.optimizer_shards,
    wrappers.kept_activations,
    custom_keys,
    needed_hooks,
    pipelines,
    vit,
    channels,
    statistics,
    colour_order,
    options_of_parts,
    counted_images,
    transformers,
    visible_patches,
    predicting,
    whole_branches,
    branches,
    pretrained_tokens,
    cls_tokens,
    pixels,
    masks,
    device_colours,
    views,
    image_sizes,
    classifier,
    counted_classes,
    square_images,
    losses.class_weights,
    losses.smoothed_classes,
    dense.windows,
    dense.dense_widths,
    dense.pyramid,
    dense.regions,
    dense.detector_classes,
)


def stock_warm_up(whole: Whole) -> Faults:
    """Warn about a warm-up of mmengine's that the run does not reach."""
    run = whole.at('train_cfg')
    length = run.get('max_iters') if run else None
    for part in whole.named('LinearLR'):
        end = part.get('end')
        if not part.get('by_epoch', True) and length and end and end > length:
            yield (
                f'{part.path} warms up for {end} steps and the run has '
                f'{length}: the learning rate does not reach its value.'
            )


def measured_epochs(whole: Whole) -> Faults:
    """Warn about hooks that count epochs in a loop of iterations."""
    run = whole.at('train_cfg')
    if run is None or not _counts_iterations(run):
        return
    for part in whole.named('OnlineKNN', 'OnlineMatches'):
        yield (
            f'{part.path}.interval counts epochs, and train_cfg iterations: '
            'the hook measures after the last one only, and OnlineMatches '
            'before the first one, too.'
        )


def second_preprocessor(whole: Whole) -> Faults:
    """Warn about a preprocessor that the model's own replaces."""
    own, other = (
        whole.at('model.data_preprocessor'),
        whole.at('data_preprocessor'),
    )
    if own is not None and other is not None:
        for name, value in other.settings.items():
            if own.get(name) != value:
                yield (
                    f'Nothing reads the setting data_preprocessor.{name}, '
                    'since the model has its own; set '
                    f'model.data_preprocessor.{name}.'
                )


def late_steps(whole: Whole) -> Faults:
    """Warn about a schedule that falls after the run, or that rises."""
    run, wrapper = whole.at('train_cfg'), whole.at('optim_wrapper.optimizer')
    for part in whole.named('MultiStepLR'):
        epochs = part.get('by_epoch', True)
        name = 'max_epochs' if epochs else 'max_iters'
        length = run.get(name) if run else None
        late = [m for m in part.get('milestones') or () if m >= (length or m)]
        if length and late:
            yield (
                f'{part.path}.milestones has {late} and train_cfg.{name} is '
                f'{length}: the learning rate does not fall there.'
            )
    lr = wrapper.get('lr') if wrapper else None
    for part in whole.named('WarmupCosineLR', 'CosineAnnealingLR'):
        least = part.get('eta_min')
        if lr is not None and least is not None and least > lr:
            yield (
                f'{part.path}.eta_min is {least} and optim_wrapper.optimizer'
                f'.lr {lr}: the learning rate rises to the end.'
            )


def erased_pixels(whole: Whole) -> Faults:
    """Warn about erased pixels that are not drawn from mean and std."""
    model = whole.at('model.data_preprocessor')
    if model is None or not model.get('mean'):
        return
    rows = (('fill_color', 'mean'), ('fill_std', 'std'))
    for part in whole.named('RandomErasing'):
        for own, other in rows:
            levels, wanted = part.get(own), model.get(other)
            if not isinstance(levels, Sequence) or not wanted:
                continue
            if sorted(levels) != sorted(wanted):
                yield (
                    f'{part.path}.{own} is {[*levels]} and '
                    f'model.data_preprocessor.{other} {[*wanted]}: erased '
                    f'pixels differ from those of the images; set {own} to '
                    'these values, blue first.'
                )


def levels(whole: Whole) -> Faults:
    """Warn about an evaluation that reads other levels than the training."""
    loaders = [
        part
        for part in whole.named('LoadRGBImage', 'LoadImage')
        if '_dataloader.' in part.path
    ]
    windows = [_plain(part.get('window')) for part in loaders]
    for part, window in zip(loaders, windows, strict=True):
        if window != windows[0]:
            yield (
                f'{part.path}.window is {window} and {loaders[0].path}.window '
                f'is {windows[0]}: images of more than 8 bits have other '
                'levels there; set both to the same.'
            )


def _plain(window: Any) -> Any:
    """Return a window with its levels as a tuple."""
    return tuple(window) if isinstance(window, list) else window


WARNINGS: tuple[Callable[[Whole], Faults], ...] = (
    stock_warm_up,
    measured_epochs,
    late_steps,
    second_preprocessor,
    erased_pixels,
    levels,
    dense.padded_crops,
    dense.detector_images,
    dense.evaluated_annotations,
)
