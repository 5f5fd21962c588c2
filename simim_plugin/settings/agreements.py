"""Settings that must agree with each other.

Each function yields one sentence for each fault. The values of single
settings have been checked before. What a function does not know for certain,
it leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .channels import channels_of
from .parts import Part
from .signatures import default_of

Faults = Iterator[str]


@dataclass
class Whole:
    """A whole config: its settings and its parts."""

    settings: Mapping
    parts: list[Part]

    def named(self, *names: str, below: str = '') -> list[Part]:
        """Return the parts of some classes, or of classes that inherit."""
        return [
            part
            for part in self.parts
            if part.path.startswith(below) and {*names} & {*part.names}
        ]

    def at(self, path: str) -> Part | None:
        """Return the part at a path."""
        return next((p for p in self.parts if p.path == path), None)

    @cached_property
    def encoder(self) -> Encoder | None:
        """The backbone, if it is a ViT of a known kind."""
        return encoder_of(self.at('model.backbone'))


@dataclass(frozen=True)
class Encoder:
    """The sizes of a ViT.

    Args:
        part (Part): its settings.
        dims (int): channels.
        layers (int): blocks.
        heads (int): attention heads.
        image (tuple[int, int]): height and width of the images, pixels.
        patch (tuple[int, int]): height and width of a patch, pixels.
    """

    part: Part
    dims: int
    layers: int
    heads: int
    image: tuple[int, int]
    patch: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return (
            self.image[0] // self.patch[0],
            self.image[1] // self.patch[1],
        )


def pair(size: Any) -> tuple[int, int]:
    """Return height and width of a size of one or two numbers."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def value_of(part: Part, name: str) -> Any:
    """Return a setting, or the default of its class."""
    return part.get(name, default_of(part.made, name) if part.made else None)


def encoder_of(part: Part | None) -> Encoder | None:
    """Return the sizes of a ViT of ours or MMPretrain's, else None."""
    if part is None or part.made is None:
        return None
    given: Any = part.settings
    if 'SiameseIMSegViT' not in part.names:
        known = {'VisionTransformer', 'MAEViT', 'SiameseIMViTDet'}
        names = [name for name in part.names if name != 'FrozenStages']
        zoo = getattr(part.made, 'arch_zoo', None)
        if zoo is None or not known & {*names[:2]}:
            return None
        given = value_of(part, 'arch')
        if isinstance(given, str):
            given = zoo.get(given.lower())
        if given is None:
            return None
    dims, layers, heads = (
        given.get(name, default_of(part.made, name))
        for name in ('embed_dims', 'num_layers', 'num_heads')
    )
    image, patch = (
        pair(value_of(part, name)) for name in ('img_size', 'patch_size')
    )
    return Encoder(part, dims, layers, heads, image, patch)


def differs(
    one: str, first: Any, other: str, second: Any, why: str = ''
) -> Faults:
    """Yield the fault of two settings that must be equal."""
    if first is not None and second is not None and first != second:
        yield (
            f'{one} is {first} and {other} is {second}; set both to the same'
            f'{why}.'
        )


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
        length = part.get('end', run.get(name))
        if length is not None and part.get('warmup', 0) > length:
            yield (
                f'{part.path}.warmup is {part.get("warmup")} and the run '
                f'ends after {length} {"epochs" if by_epoch else "steps"}; '
                f'set the warm-up to at most that, or train_cfg.{name} '
                'higher.'
            )


def checkpoints(whole: Whole) -> Faults:
    """A checkpoint falls between optimizer steps."""
    wrapper = whole.at('optim_wrapper')
    accumulated = wrapper.get('accumulative_counts', 1) if wrapper else 1
    for part in whole.named('SafeCheckpointHook'):
        interval = part.get('interval', -1)
        if not part.get('by_epoch', True) and interval % accumulated:
            yield (
                f'A checkpoint every {interval} iterations falls between '
                f'optimizer steps of {accumulated} iterations; set '
                f'{part.path}.interval to a multiple of it.'
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
    indices = part.get('out_indices', ())
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
        if isinstance(values, Sequence) and len(values) != count:
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


def counted_images(whole: Whole) -> Faults:
    """No evaluation skips broken images."""
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


def pretrained_tokens(whole: Whole) -> Faults:
    """Pretraining takes the tokens of the last block, the cls token first."""
    backbone, model = whole.at('model.backbone'), whole.at('model')
    if not (backbone and model and 'SiameseIM' in model.names):
        return
    for name, only in (
        *(('out_type', 'raw'), ('out_indices', -1)),
        ('with_cls_token', True),
    ):
        if backbone.get(name, only) != only:
            yield (
                f'model.backbone.{name} is {backbone.get(name)!r}, and '
                'pretraining takes the cls token and the patches of the last '
                'block; remove it.'
            )


def pixels(whole: Whole) -> Faults:
    """A decoder of pixels predicts the values of a patch."""
    encoder, neck = whole.encoder, whole.at('model.neck')
    if encoder and neck and 'PixelDecoder' in neck.names:
        rows, columns = encoder.patch
        yield from differs(
            *('model.neck.out_dims', neck.get('out_dims')),
            *('the values of a patch', 3 * rows * columns),
        )


def masks(whole: Whole) -> Faults:
    """A mask leaves and hides patches of the encoder's grid."""
    model = whole.at('model')
    if model is None or not {'SiameseIM', 'MaskedMoCoV3'} & {*model.names}:
        return
    for part in whole.named('BlockwiseMask', 'RandomMask'):
        rows, columns = pair(part.get('grid', 1))
        masked = part.get('num_masked', 0)
        if masked >= rows * columns:
            yield (
                f'{part.path}.num_masked is {masked} of {rows} x {columns} '
                f'patches; set it to 1 to {rows * columns - 1}, so that some '
                'are hidden and some are seen.'
            )
        target = part.get('key', 'mask') != 'mask'
        small = whole.named('SmallTargetDecoder')
        if whole.encoder is not None and not (target and small):
            yield from differs(
                *(f'{part.path}.grid', (rows, columns)),
                'the grid of patches of model.backbone',
                whole.encoder.grid,
            )


def views(whole: Whole) -> Faults:
    """The views have the size of the encoder's images."""
    encoder = whole.encoder
    if encoder is None:
        return
    for part in whole.named('PairedViews', below='train_dataloader'):
        yield from differs(
            *(f'{part.path}.size', pair(part.get('size', encoder.image))),
            *('model.backbone.img_size', encoder.image),
        )
        neck = whole.at('model.neck')
        grid = neck and neck.get('target_grid')
        if grid and part.get('target_size'):
            rows, columns = encoder.patch
            yield from differs(
                f'{part.path}.target_size',
                pair(part.get('target_size')),
                'model.neck.target_grid in pixels',
                (grid[0] * rows, grid[1] * columns),
            )


# Classification

_SIZED = {
    'RandomResizedCrop': 'scale',
    'SingleDrawCrop': 'scale',
    'CenterCrop': 'crop_size',
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
        if part.kind in _SIZED:
            name = _SIZED[part.kind]
            size = part.get(name)
            if isinstance(size, int) or (
                isinstance(size, Sequence) and len(size) == 2
            ):
                return part, name, pair(size)
            return None
        if part.kind not in _SAME_SIZE:
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
    for place in ('train', 'val', 'test', 'test_cfg.train'):
        path = f'{place}_dataloader.dataset.pipeline.'
        transforms = [
            part
            for part in whole.parts
            if part.path.startswith(path)
            and part.path.removeprefix(path).isdigit()
        ]
        last = final_size(transforms)
        if last is not None:
            part, name, size = last
            if sorted(size) != sorted(encoder.image):
                yield from differs(
                    *(f'{part.path}.{name}', size),
                    *('model.backbone.img_size', encoder.image),
                )


def classifier(whole: Whole) -> Faults:
    """A head fits the encoder and the preprocessor."""
    encoder, head = whole.encoder, whole.at('model.head')
    if head is None or 'LinearClsHead' not in head.names:
        return
    if encoder is not None and whole.at('model.neck') is None:
        yield from differs(
            *('model.head.in_channels', head.get('in_channels')),
            *('the width of model.backbone', encoder.dims),
        )
    classes = head.get('num_classes')
    given = whole.at('model.data_preprocessor')
    if given is not None and whole.settings['model'].get('train_cfg'):
        yield from differs(  # mixed images have a share of every class
            *('model.head.num_classes', classes),
            *(f'{given.path}.num_classes', given.get('num_classes')),
        )


# Segmentation


def windows(whole: Whole) -> Faults:
    """Images, windows and padding of a segmentor have one size."""
    encoder, model = whole.encoder, whole.at('model')
    if encoder is None or model is None or 'EncoderDecoder' not in model.names:
        return
    if not any(n.startswith('SiameseIM') for n in encoder.part.names):
        return
    test = model.get('test_cfg') or {}
    given = model.get('data_preprocessor') or {}
    sizes = {
        'model.data_preprocessor.size': given.get('size'),
        'model.data_preprocessor.test_cfg.size': (
            given.get('test_cfg') or {}
        ).get('size'),
    }
    if test.get('mode') == 'slide':
        sizes['model.test_cfg.crop_size'] = test.get('crop_size')
        yield from strides(test)
        for path, size in sizes.items():
            if size is not None:
                yield from differs(
                    *(path, pair(size)),
                    *('model.backbone.img_size', encoder.image),
                )
    for part in whole.named('RandomCrop', below='train_dataloader'):
        size = part.get('crop_size')
        if isinstance(size, Sequence) and any(
            side > limit
            for side, limit in zip(size, encoder.image, strict=True)
        ):
            yield from differs(
                *(f'{part.path}.crop_size', tuple(size)),
                *('model.backbone.img_size', encoder.image),
            )


def strides(test: Mapping) -> Faults:
    """Sliding windows overlap or touch."""
    crop, stride = test.get('crop_size'), test.get('stride')
    if crop is None or stride is None:
        return
    if any(
        not 0 < step <= side
        for step, side in zip(pair(stride), pair(crop), strict=True)
    ):
        yield (
            f'model.test_cfg.stride is {stride} and crop_size is {crop}; set '
            'strides from 1 to the size, so that the windows cover the image.'
        )


def dense_widths(whole: Whole) -> Faults:
    """Heads of a segmentor fit the encoder and each other."""
    encoder, neck = whole.encoder, whole.at('model.neck')
    if encoder is None:
        return
    if neck is not None and 'Feature2Pyramid' in neck.names:
        yield from differs(
            *('model.neck.embed_dim', neck.get('embed_dim')),
            *('the width of model.backbone', encoder.dims),
        )
    classes: dict[str, Any] = {}
    for path in ('model.decode_head', 'model.auxiliary_head'):
        head = whole.at(path)
        if head is None or 'BaseDecodeHead' not in head.names:
            continue
        classes[path] = head.get('num_classes')
        widths = head.get('in_channels')
        for width in widths if isinstance(widths, Sequence) else [widths]:
            yield from differs(
                *(f'{path}.in_channels', width),
                *('the width of model.backbone', encoder.dims),
            )
    if len(classes) == 2:
        (one, first), (other, second) = classes.items()
        yield from differs(
            f'{one}.num_classes', first, f'{other}.num_classes', second
        )


# Detection


def pyramid(whole: Whole) -> Faults:
    """Levels, strides and widths of a ViTDet fit each other."""
    encoder, neck = whole.encoder, whole.at('model.neck')
    if encoder is None or neck is None:
        return
    if 'SiameseIMFeaturePyramid' not in neck.names:
        return
    yield from differs(
        *('model.neck.in_channels', neck.get('in_channels')),
        *('the width of model.backbone', encoder.dims),
    )
    width = value_of(neck, 'out_channels')
    for path, name in (
        ('model.rpn_head', 'in_channels'),
        ('model.roi_head.bbox_roi_extractor', 'out_channels'),
        ('model.roi_head.mask_roi_extractor', 'out_channels'),
        ('model.roi_head.bbox_head', 'in_channels'),
        ('model.roi_head.mask_head', 'in_channels'),
    ):
        part = whole.at(path)
        if part is not None:
            yield from differs(
                *(f'{path}.{name}', part.get(name)),
                *('model.neck.out_channels', width),
            )
    yield from level_strides(whole, encoder)
    given = whole.at('model.data_preprocessor')
    divisor = given.get('pad_size_divisor') if given else None
    if divisor and divisor % encoder.patch[0]:
        yield (
            f'{given.path}.pad_size_divisor is {divisor} '  # type: ignore
            f'and a patch has {encoder.patch[0]} pixels; set a multiple of '
            'the patch.'
        )


def level_strides(whole: Whole, encoder: Encoder) -> Faults:
    """Strides of boxes and regions are those of the levels."""
    made = [encoder.patch[0] * factor for factor in (0.25, 0.5, 1, 2, 4)]
    for path, name in (
        ('model.rpn_head.anchor_generator', 'strides'),
        ('model.roi_head.bbox_roi_extractor', 'featmap_strides'),
        ('model.roi_head.mask_roi_extractor', 'featmap_strides'),
    ):
        part = whole.at(path)
        given = part.get(name) if part else None
        if given is not None and [*given] != made[: len(given)]:
            levels = [int(s) if s == int(s) else s for s in made[: len(given)]]
            yield from differs(
                *(f'{path}.{name}', [*given]),
                'the strides of the levels of model.neck',
                levels,
            )


def detector_classes(whole: Whole) -> Faults:
    """The heads of a detector have the same classes."""
    box = whole.at('model.roi_head.bbox_head')
    if box is None:
        return
    for path in (
        'model.roi_head.mask_head',
        'model.roi_head.bbox_head.loss_cls',
    ):
        part = whole.at(path)
        if part is not None:
            yield from differs(
                *('model.roi_head.bbox_head.num_classes',),
                box.get('num_classes'),
                *(f'{path}.num_classes', part.get('num_classes')),
            )


AGREEMENTS: tuple[Callable[[Whole], Faults], ...] = (
    complete_loops,
    loader_workers,
    warm_up,
    checkpoints,
    vit,
    channels,
    counted_images,
    transformers,
    branches,
    pretrained_tokens,
    pixels,
    masks,
    views,
    image_sizes,
    classifier,
    windows,
    dense_widths,
    pyramid,
    detector_classes,
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
