"""Settings of segmentation and detection that must agree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..geometry import pair
from .parts import Part
from .whole import Encoder, Faults, Whole, differs, value_of

# Segmentation


def windows(whole: Whole) -> Faults:
    """Images, windows and padding of a segmentor have one size."""
    encoder, model = whole.encoder, whole.at('model')
    if not is_segmentor(whole) or encoder is None or model is None:
        return
    test = model.get('test_cfg') or {}
    given = model.get('data_preprocessor') or {}
    if test.get('mode') not in (None, 'slide', 'whole'):
        yield (
            f'model.test_cfg.mode is {test["mode"]!r}; set it to slide or '
            'whole.'
        )
    for head in heads_of(whole):
        if given.get('seg_pad_val') is not None:
            yield from differs(
                *('model.data_preprocessor.seg_pad_val', given['seg_pad_val']),
                *(f'{head.path}.ignore_index', head.get('ignore_index', 255)),
                why=', so that padding has no label',
            )
    sizes = {'model.data_preprocessor.size': given.get('size')}
    slides = test.get('mode') == 'slide'
    biased = value_of(encoder.part, 'relative_bias')
    if slides or biased:
        sizes['model.data_preprocessor.test_cfg.size'] = (
            given.get('test_cfg') or {}
        ).get('size')
    if slides:
        sizes['model.test_cfg.crop_size'] = test.get('crop_size')
        yield from strides(test)
    for path, size in sizes.items():
        if size is not None:
            yield from differs(
                *(path, pair(size)),
                *('model.backbone.img_size', encoder.image),
            )
    for part, size in crops(whole):
        if any(a > b for a, b in zip(size, encoder.image, strict=True)):
            yield from differs(
                *(f'{part.path}.crop_size', size),
                *('model.backbone.img_size', encoder.image),
            )


def is_segmentor(whole: Whole) -> bool:
    """Whether the model is a segmentor with an encoder of ours."""
    encoder, model = whole.encoder, whole.at('model')
    return (
        encoder is not None
        and model is not None
        and 'EncoderDecoder' in model.names
        and any(n.startswith('SiameseIM') for n in encoder.part.names)
    )


def crops(whole: Whole) -> Iterator[tuple[Part, tuple[int, int]]]:
    """Yield the crops of training images, with height and width."""
    for part in whole.named('RandomCrop'):
        if part.path.startswith(('train_', 'test_cfg.train_')):
            size = part.get('crop_size')
            if size is not None:
                yield part, pair(size)


def padded_crops(whole: Whole) -> Faults:
    """Warn about crops of a segmentor that are mostly padding."""
    if is_segmentor(whole) and whole.encoder is not None:
        rows, columns = whole.encoder.image
        for part, size in crops(whole):
            if 2 * size[0] * size[1] < rows * columns:
                yield (
                    f'{part.path}.crop_size is {size} and is padded to '
                    f'{whole.encoder.image}: most of each image is padding; '
                    'set it to model.backbone.img_size.'
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
    yield from levels(whole, encoder)
    heads = [h for h in heads_of(whole) if 'BaseDecodeHead' in h.names]
    for head in heads if keeps_widths(neck) else []:
        widths = head.get('in_channels')
        for width in widths if isinstance(widths, Sequence) else [widths]:
            yield from differs(
                *(f'{head.path}.in_channels', width),
                *('the width of model.backbone', encoder.dims),
            )
    for other in heads[1:]:
        yield from differs(
            *(f'{heads[0].path}.num_classes', heads[0].get('num_classes')),
            *(f'{other.path}.num_classes', other.get('num_classes')),
        )


def heads_of(whole: Whole) -> list[Part]:
    """Return the heads of a segmentor; the auxiliary ones may be a list."""
    return [
        *whole.each('model.decode_head'),
        *whole.each('model.auxiliary_head'),
    ]


def keeps_widths(neck: Part | None) -> bool:
    """Whether heads get as many maps, and as wide ones, as the encoder's.

    Other necks than that of our configs have widths and levels of their own.
    """
    return neck is None or 'Feature2Pyramid' in neck.names


def levels(whole: Whole, encoder: Encoder) -> Faults:
    """Neck and heads of a segmentor take the blocks that are returned."""
    out = value_of(encoder.part, 'out_indices')
    if not is_segmentor(whole) or not isinstance(out, (int, Sequence)):
        return
    count = 1 if isinstance(out, int) else len(out)
    neck = whole.at('model.neck')
    if neck is not None and 'Feature2Pyramid' in neck.names:
        yield from differs(
            *('The number of model.neck.rescales', len_of(neck, 'rescales')),
            *('the number of model.backbone.out_indices', count),
        )
    for head in heads_of(whole) if keeps_widths(neck) else []:
        if 'BaseDecodeHead' not in head.names:
            continue
        index = value_of(head, 'in_index')
        for level in index if isinstance(index, Sequence) else [index]:
            if isinstance(level, int) and not -count <= level < count:
                yield (
                    f'{head.path}.in_index is {index} and model.backbone '
                    f'returns {count} blocks; set indices from 0 to '
                    f'{count - 1}.'
                )


def len_of(part: Part, name: str) -> int | None:
    """Return the length of a list, None if it is no list."""
    value = value_of(part, name)
    return len(value) if isinstance(value, Sequence) else None


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
        for part in whole.each(path):
            yield from differs(
                *(f'{part.path}.{name}', part.get(name)),
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
    for path, name, least in (
        ('model.rpn_head.anchor_generator', 'strides', 5),
        ('model.roi_head.bbox_roi_extractor', 'featmap_strides', 1),
        ('model.roi_head.mask_roi_extractor', 'featmap_strides', 1),
    ):
        for part in whole.each(path):
            given = part.get(name)
            if not isinstance(given, Sequence):
                continue
            given = [s[0] if isinstance(s, Sequence) else s for s in given]
            count = max(least, min(len(given), 5))
            if given != made[:count]:
                yield from differs(
                    *(f'{part.path}.{name}', given),
                    'the strides of the levels of model.neck',
                    [int(s) if s == int(s) else s for s in made[:count]],
                )


def regions(whole: Whole) -> Faults:
    """Heads take regions of the size that is cut out for them."""
    for kind in ('bbox', 'mask'):
        cut = _side_of_regions(whole, kind)
        if cut is None:
            continue
        side, path = cut
        for head in whole.each(f'model.roi_head.{kind}_head'):
            if 'ConvFCBBoxHead' in head.names:
                yield from differs(
                    f'{head.path}.roi_feat_size',
                    *(pair(value_of(head, 'roi_feat_size')), path, side),
                )
            drawn = {'FCNMaskHead', 'CoarseMaskHead'} & {*head.names}
            if drawn == {'FCNMaskHead'} and not head.get('upsample_cfg'):
                whole_masks = tuple(2 * s for s in side)
                for where, size in _mask_sizes(whole):
                    yield from differs(
                        *(where, pair(size)),
                        *(f'the masks, twice {path}', whole_masks),
                    )


def _side_of_regions(
    whole: Whole, kind: str
) -> tuple[tuple[int, int], str] | None:
    for part in whole.each(f'model.roi_head.{kind}_roi_extractor'):
        layer = part.get('roi_layer')
        if isinstance(layer, Mapping) and 'output_size' in layer:
            path = f'{part.path}.roi_layer.output_size'
            return pair(layer['output_size']), path
    return None


def _mask_sizes(whole: Whole) -> Iterator[tuple[str, Any]]:
    model = whole.at('model')
    train = (model.get('train_cfg') if model else None) or {}
    rcnn = train.get('rcnn') if isinstance(train, Mapping) else None
    for number, stage in enumerate(
        rcnn if isinstance(rcnn, Sequence) else [rcnn]
    ):
        if isinstance(stage, Mapping) and stage.get('mask_size'):
            place = f'.{number}' if isinstance(rcnn, Sequence) else ''
            yield (
                f'model.train_cfg.rcnn{place}.mask_size',
                stage['mask_size'],
            )


def detector_classes(whole: Whole) -> Faults:
    """The heads of a detector have the same classes."""
    heads = whole.each('model.roi_head.bbox_head')
    if not heads:
        return
    others = [*heads[1:], *whole.each('model.roi_head.mask_head')]
    for head in heads:
        others += whole.each(f'{head.path}.loss_cls')
    for part in others:
        yield from differs(
            f'{heads[0].path}.num_classes',
            heads[0].get('num_classes'),
            *(f'{part.path}.num_classes', part.get('num_classes')),
        )


def evaluated_annotations(whole: Whole) -> Faults:
    """Warn about an evaluation by other annotations than the data set's."""
    for name in ('val', 'test'):
        data = whole.at(f'{name}_dataloader.dataset')
        checked = {'CheckedCocoDataset', 'CheckedLVISDataset'}
        if data is None or not checked & {*data.names}:
            continue
        root, own = data.get('data_root') or '', data.get('ann_file') or ''
        own = os.path.join(root, own)
        for part in whole.each(f'{name}_evaluator'):
            file = part.get('ann_file')
            if file and os.path.realpath(file) != os.path.realpath(own):
                yield (
                    f'{part.path}.ann_file is {file} and {data.path} reads '
                    f'{own}; set both to one file, unless they list the same '
                    'images by the same ids.'
                )


_UNCUT = (
    *('RandomFlip', 'FilterAnnotations', 'LoadAnnotations', 'LoadInstances'),
    *('PackDetInputs', 'PhotoMetricDistortion', 'YOLOXHSVRandomAug'),
)


def detector_images(whole: Whole) -> Faults:
    """Warn about images of another size than that of ViTDet's encoder.

    The encoder takes images of any size, but it interpolates its relative
    positions, so that equal distances in pixels get other positions.
    """
    encoder, given = whole.encoder, whole.at('model.data_preprocessor')
    if encoder is None or 'SiameseIMViTDet' not in encoder.part.names:
        return
    divisor = (given.get('pad_size_divisor') if given else None) or 1
    if given is not None and given.get('batch_augments'):
        return  # they may set the size
    for steps in whole.pipelines().values():
        found = largest_image(steps)
        if found is None:
            continue
        part, name, size = found
        if size == encoder.image and pair(divisor) == encoder.image:
            continue
        larger = max(size) > max(encoder.image)
        if larger or pair(divisor) != encoder.image:
            effect = (
                'images of other sizes reach the encoder, which interpolates '
                'its relative positions for them'
            )
        elif 2 * size[0] * size[1] < encoder.image[0] * encoder.image[1]:
            effect = 'most of each image is padding'
        else:
            continue
        yield (
            f'{part.path}.{name} is {part.get(name)}, model.data_preprocessor'
            f'.pad_size_divisor {divisor} and model.backbone.img_size '
            f'{encoder.image[0]}: {effect}; set all three to one size.'
        )


def largest_image(
    steps: Sequence[Part],
) -> tuple[Part, str, tuple[int, int]] | None:
    """Return the transform that sets the size, the setting and the size.

    None if a later transform may change the size, or none sets it. Where an
    image keeps its shape, its long edge counts twice.
    """
    for part in reversed(steps):
        match part.short:
            case 'RandomCrop' if part.get('crop_type', 'absolute') == (
                'absolute'
            ):
                width, height = pair(part.get('crop_size'))
                return part, 'crop_size', (height, width)
            case 'Resize' | 'RandomResize' if part.get('scale') is not None:
                scale = part.get('scale')
                most = max(part.get('ratio_range') or (1,))
                if not all(isinstance(s, int) for s in pair(scale)):
                    return None  # two scales, between which it draws
                width, height = (round(s * most) for s in pair(scale))
                if part.get('keep_ratio'):
                    width = height = max(width, height)
                return part, 'scale', (height, width)
            case kind if kind not in _UNCUT:
                return None
    return None
