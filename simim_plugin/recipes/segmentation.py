"""Choose the settings of a segmentor: UPerNet, or frozen linear features."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import SimimError
from ..segmentation.label_maps import IGNORED, LOOKED_AT
from .encoders import SIZES, Encoder, check_encoder
from .label_maps import LabelMaps
from .machine import Machine, fit_batch, need
from .pairs import Pairs
from .plans import (
    LEAST_BATCH,
    Plan,
    epochs_for,
    light_lr,
    lr_rule,
    power_of_two,
    square_root_lr,
    warn,
)
from .tuning import (
    Tuning,
    set_encoder,
    set_iterations,
    set_optimizer,
    set_tuning,
)
from .written import Code, Written

SIDES = (64, 128, 224, 256, 384, 512)
"""Sides of the crops, pixels."""

_BASES = dict(
    upernet='siamese_im_vit-{}-p16_upernet-8xb2-amp-160k_ade20k-512x512.py',
    linear='siamese_im_vit-{}-p16_seg-linear-8xb2-amp-40k_ade20k-512x512.py',
)
_RECIPES = dict(upernet=1e-4, linear=1e-3)
_RECIPE_BATCH = 16
_LEVELS = 4


def crop_side(
    data: LabelMaps, encoder: Encoder, machine: Machine, asked: int | None
) -> tuple[int, str]:
    """Choose the side of the crops and say why."""
    if asked is not None:
        return asked, 'as asked'
    short = data.pictures.sides[0]
    most = 512 if machine.gpu else 128
    side = [s for s in SIDES if s <= max(min(short, most), SIDES[0])][-1]
    side = max(side // encoder.patch, 4) * encoder.patch
    if short > most and not machine.gpu:
        return side, 'small crops, since there is no GPU'
    return side, f'half of the pictures have a short side of {short} px'


def plan_segmentation(
    data: LabelMaps,
    encoder: Encoder,
    machine: Machine,
    method: str,
    size: int,
    epochs: int | None,
    batch: int | None,
) -> Plan:
    """Choose batch, length and learning rate."""
    images = len(data.train.names)
    most = min(16 if machine.gpu else 8, power_of_two(max(images / 4, 2)))
    kind = 'upernet' if method == 'upernet' else 'seg_linear'
    step = need(
        *(kind, machine, encoder.sizes, size, encoder.patch),
        classes=len(data.classes),
    )
    least = LEAST_BATCH.get(method, 1)
    if batch and batch < least:
        raise SimimError(
            'UPerNet normalises over the pictures of a step, and one alone '
            'has no variance; set --batch-size 2 or more.'
        )
    batch, room = fit_batch(machine, step, most, batch, least)
    accumulated = max(most // batch, 1)
    total = batch * accumulated
    recipe = _RECIPES[method] * (1 if encoder.file else 4)
    lr = square_root_lr(recipe, _RECIPE_BATCH, total)
    if method == 'upernet' and not machine.gpu:
        lr = recipe = light_lr(encoder.width)
    steps = 5_000 if machine.gpu else 400
    epochs = epochs or epochs_for(images, total, steps, 20, 400)
    plan = Plan(
        images,
        batch,
        accumulated,
        epochs,
        lr,
        warmup=0,
        recipe_lr=recipe,
        room=room,
    )
    warn(plan, 'segmentation')
    return plan


def write_segmentation(
    data: LabelMaps,
    encoder: Encoder,
    machine: Machine,
    plan: Plan,
    method: str,
    size: tuple[int, str],
    about: list[str],
    tuning: Tuning,
    lists: Mapping[str, str],
) -> Written:
    """Write the settings of a segmentor; see :func:`write_classification`."""
    check_encoder(encoder, tuning.option if method == 'upernet' else method)
    if method == 'upernet' and encoder.depth < _LEVELS:
        raise SimimError(
            f'UPerNet reads {_LEVELS} blocks, and the encoder '
            f'{encoder.file} has {encoder.depth}; use --method linear.'
        )
    packaged = SIZES[:4] if method == 'upernet' else SIZES[:3]
    name = encoder.name if encoder.name in packaged else 'base'
    out = Written(_BASES[method].format(name), about)
    out.set('img_size', *size)
    _set_model(out, data, encoder, method, str(name))
    set_tuning(out, encoder, tuning)
    _set_data(out, data, machine, lists)
    out.set('train_dataloader.batch_size', plan.batch, str(plan.room))
    out.set('val_dataloader', Code('test_dataloader'))
    _set_schedule(out, encoder, machine, plan, method, tuning)
    return out


def _set_model(
    out: Written, data: LabelMaps, encoder: Encoder, method: str, name: str
) -> None:
    backbone, count = 'model.backbone', len(data.classes)
    packaged = dict(arch=name, patch_size=16)
    changes = encoder.changes(packaged, final_norm=method != 'upernet')
    set_encoder(out, encoder, changes, data.pictures.channels)
    heads = ['decode_head']
    if method == 'upernet':
        heads.append('auxiliary_head')
        if encoder.depth != (24 if name == 'large' else 12):
            blocks = [round(k * encoder.depth / 4) - 1 for k in (1, 2, 3, 4)]
            out.set(f'{backbone}.out_indices', tuple(blocks))
    else:
        out.set(f'{backbone}.frozen_stages', encoder.depth)
    if encoder.name != name:
        width = encoder.width
        if method == 'upernet':
            out.set('model.neck.embed_dim', width)
            out.set('model.decode_head.in_channels', [width] * 4)
            out.set('model.decode_head.channels', width)
            out.set('model.auxiliary_head.in_channels', width)
        else:
            out.set('model.decode_head.in_channels', width)
    for head in heads:
        out.set(f'model.{head}.num_classes', count)
    encoder.set_statistics(out, data.pictures.channels)


def label_settings(data: LabelMaps) -> dict[str, object]:
    """Return the settings of a data set for the values of its classes."""
    values = [*data.values]
    if isinstance(data.ignored, str):
        return dict(values=values, ignored=data.ignored)
    left = [v for v in data.ignored if v != IGNORED]
    if values == [*range(len(values))] and not left:
        return {}
    # Maps that were not looked at may hold 0, which then has no class.
    names = data.train.names, data.val.names
    known = left == [0] or (not left and max(map(len, names)) <= LOOKED_AT)
    if values == [*range(1, len(values) + 1)] and known:
        return dict(reduce_zero_label=True)
    ignored = sorted({*data.ignored, IGNORED} - {*values})
    return dict(values=values, ignored=ignored)


def _set_data(
    out: Written, data: LabelMaps, machine: Machine, lists: Mapping[str, str]
) -> None:
    root = os.path.commonpath(
        os.path.abspath(folder)
        for part in (data.train, data.val)
        for folder in (part.images, part.maps)
    )
    labels = ''.join(
        f' {key}={value!r},' for key, value in label_settings(data).items()
    )
    out.set(
        'pictures',
        Code(
            f"dict(\n    type='CheckedSegDataset', data_root={root!r},\n"
            f"    img_suffix='',{labels}\n"
            f'    metainfo=dict(classes={data.classes!r}))'
        ),
    )
    for loader, part, pipeline, listed in (
        ('train_dataloader', data.train, 'train_pipeline', lists['train']),
        ('test_dataloader', data.val, 'test_pipeline', lists['val']),
    ):
        dataset = _dataset(part, root, pipeline, listed)
        out.set(f'{loader}.dataset', Code(dataset))
        out.set(f'{loader}.num_workers', machine.workers)


def _dataset(part: Pairs, root: str, pipeline: str, listed: str) -> str:
    prefix = dict(
        img_path=os.path.relpath(part.images, root),
        seg_map_path=os.path.relpath(part.maps, root),
    )
    return (
        f'dict(pictures, _delete_=True, pipeline=_base_.{pipeline},'
        f'  # {len(part.names)} pictures\n'
        f'        ann_file={listed!r},\n'
        f'        seg_map_suffix={part.ending!r},\n'
        f'        data_prefix=dict({_words(prefix)}))'
    )


def _words(settings: Mapping[str, object]) -> str:
    return ', '.join(f'{key}={value!r}' for key, value in settings.items())


def _set_schedule(
    out: Written,
    encoder: Encoder,
    machine: Machine,
    plan: Plan,
    method: str,
    tuning: Tuning,
) -> None:
    iterations = plan.batches()
    every = max(1, iterations // 5)
    every = max(every - every % plan.accumulated, plan.accumulated)
    rule = lr_rule(
        *(plan, _RECIPES[method], _RECIPE_BATCH, encoder.file),
        machine.gpu or method == 'linear',
    )
    trained = tuning if method == 'upernet' else None
    set_optimizer(out, plan, rule, encoder, trained)
    warmup = max(1, min(1500, iterations // 20))
    out.set(
        'param_scheduler',
        Code(
            f"[dict(type='LinearLR', start_factor=1e-6, end={warmup}, "
            'by_epoch=False),\n'
            f"    dict(type='PolyLR', begin={warmup}, end={iterations}, "
            'by_epoch=False)]'
        ),
    )
    set_iterations(out, plan, iterations, every)
