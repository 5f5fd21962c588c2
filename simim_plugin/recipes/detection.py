"""Choose the settings of a detector."""

from __future__ import annotations

import os
from math import isqrt
from typing import Any

from ..checkpoint import read_weights
from ..checkpoint.grids import bias_grid
from ..detection.schedule import schedule
from .boxes import Boxes, Part
from .encoders import SIZES, WIDTHS, Encoder, check_encoder
from .machine import Machine, fit_batch, need
from .plans import (
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
    skip_broken,
)
from .written import Code, Written

SIDES = (224, 448, 672, 896, 1024)
"""Sides of the images, pixels: whole windows of 14 patches, but the last."""

_RECIPE = (1e-4, 64)
_PATCH = 16
_BOXES_ALONE = 'siamese_im_vit-base-p16_vitdet-faster-16xb4-amp-100e_coco.py'
_LIGHT = 'siamese_im_vit-micro-p16_vitdet{}-1xb2-600it_coco-tiny-256x256.py'
"""Heads of a twentieth of the operations, for processors."""


def image_side(
    data: Boxes, machine: Machine, asked: int | None
) -> tuple[int, str]:
    """Choose the side of the images and say why."""
    if asked is not None:
        return asked, 'as asked'
    longer = data.pictures.sides[1]
    if machine.gpu:
        side = next((s for s in SIDES if s >= min(longer, 1024)), SIDES[-1])
        return side, f'half of the pictures have a long side of {longer} px'
    return (
        SIDES[0],
        f'small, without a GPU; half of the boxes have {data.side:.0%} of it',
    )


def plan_detection(
    data: Boxes,
    encoder: Encoder,
    machine: Machine,
    size: int,
    epochs: int | None,
    batch: int | None,
) -> Plan:
    """Choose batch, length and learning rate."""
    images = data.images[0] - len(data.pictures.broken)
    most = min(16 if machine.gpu else 2, power_of_two(max(images / 8, 1)))
    step = need('vitdet', machine, encoder.sizes, size, _PATCH, data.masks)
    batch, room = fit_batch(machine, step, most, batch)
    accumulated = max(most // batch, 1)
    total = batch * accumulated
    recipe = _RECIPE[0] * (1 if encoder.file else 4)
    if machine.gpu:
        lr = square_root_lr(recipe, _RECIPE[1], total)
    else:
        lr = recipe = light_lr(encoder.width)
    steps = 5_000 if machine.gpu else 600
    epochs = epochs or epochs_for(images, total, steps, 12, 400)
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
    warn(plan, 'detection', data.counts, 'training objects')
    return plan


def write_detection(
    data: Boxes,
    encoder: Encoder,
    machine: Machine,
    plan: Plan,
    size: tuple[int, str],
    about: list[str],
    tuning: Tuning,
) -> Written:
    """Write the settings of a detector; see :func:`write_classification`."""
    check_encoder(encoder, tuning.option)
    base, name = _base_of(data, encoder, machine)
    out = Written(base, about)
    out.set('img_size', *size)
    out.set('classes', data.classes, f'{len(data.classes)} with objects')
    _set_model(out, data, encoder, name)
    set_tuning(out, encoder, tuning)
    for loader, part, kind in (
        ('train_dataloader', data.train, 'training'),
        ('val_dataloader', data.val, 'test'),
    ):
        count = data.images[kind == 'test']
        root, dataset = _root(part), f'{loader}.dataset'
        out.set(f'{dataset}.data_root', root, f'{count} {kind} pictures')
        out.set(f'{dataset}.ann_file', _below(part.file, root))
        images = _below(part.images, root)
        out.set(f'{dataset}.data_prefix', dict(img=images and f'{images}/'))
        out.set(f'{dataset}.metainfo', Code('dict(classes=classes)'))
        out.set(f'{loader}.num_workers', machine.workers)
    skip_broken(out, 'train_dataloader.dataset', data.pictures)
    out.set('train_dataloader.batch_size', plan.batch, str(plan.room))
    out.set('test_dataloader', Code('val_dataloader'))
    out.set('val_evaluator.ann_file', os.path.abspath(data.val.file))
    out.set('test_evaluator', Code('val_evaluator'))
    _set_schedule(out, encoder, machine, plan, tuning)
    return out


def _base_of(
    data: Boxes, encoder: Encoder, machine: Machine
) -> tuple[str, str]:
    """Return the packaged config to inherit, and the arch that it has."""
    if not machine.gpu:
        return _LIGHT.format('' if data.masks else '-faster'), 'micro'
    if not data.masks:
        return _BOXES_ALONE, 'base'
    name = str(encoder.name if encoder.name in SIZES[:4] else 'base')
    return f'siamese_im_vit-{name}-p16_vitdet-16xb4-amp-100e_coco.py', name


def _root(part: Part) -> str:
    """Return the folder of the pictures, or one that also has the file."""
    images = os.path.abspath(part.images)
    above = os.path.commonpath([images, os.path.abspath(part.file)])
    near = {images, os.path.dirname(images)}
    return above if above in near else images


def _below(path: str, root: str) -> str:
    """Return a path relative to a folder, if it is in there."""
    path = os.path.abspath(path)
    inside = os.path.relpath(path, root)
    if inside == os.curdir:
        return ''
    return path if inside.startswith(os.pardir) else inside


def _set_model(out: Written, data: Boxes, encoder: Encoder, name: str) -> None:
    backbone, count = 'model.backbone', len(data.classes)
    packaged = dict(arch=name, patch_size=_PATCH)
    changes = encoder.changes(packaged, final_norm=False)
    changes.pop('patch_size', None)  # kernels are resized
    if encoder.name is None:
        quarter = encoder.depth / 4
        last = [round((k + 1) * quarter) - 1 for k in range(4)]
        changes['arch']['global_attn_indexes'] = sorted(
            {max(k, 0) for k in last}
        )
    set_encoder(out, encoder, changes, data.pictures.channels)
    side = _table_side(encoder)
    if side not in (None, 224 // _PATCH):
        out.set(
            f'{backbone}.pretrain_img_size',
            side * _PATCH,
            f'{side} x {side} positions',
        )
    if name != 'micro' and encoder.width < 768:
        out.set(f'{backbone}.drop_path_rate', 0.0, 'a small encoder')
    if encoder.arch['embed_dims'] != WIDTHS[name]:
        out.set('model.neck.in_channels', encoder.width)
    out.set('model.roi_head.bbox_head.num_classes', count)
    if data.masks:
        out.set('model.roi_head.mask_head.num_classes', count)
    encoder.set_statistics(out, data.pictures.channels)


def _table_side(encoder: Encoder) -> int | None:
    """Return the rows of the grid of positions, None without one."""
    if encoder.file is None:
        return None
    weights = read_weights(encoder.file, encoder.branch)
    state = weights.state
    bias = state.get('backbone.layers.0.attn.bias_table')
    if bias is not None:
        return bias_grid(bias, weights.file, weights.grid)[0]
    table = state.get('backbone.pos_embed')
    if table is None:
        return None
    rows = table.shape[1]  # with those of the extra tokens, if there are
    sides = [
        isqrt(rows - k) for k in (0, 1, 2) if isqrt(rows - k) ** 2 == rows - k
    ]
    return sides[0] if sides else None


def _set_schedule(
    out: Written,
    encoder: Encoder,
    machine: Machine,
    plan: Plan,
    tuning: Tuning,
) -> None:
    length: Any = schedule(plan.epochs, plan.images, plan.total)
    iterations = length['max_iters'] * plan.accumulated
    stones = [m * plan.accumulated for m in length['milestones']]
    every = max(1, plan.images // plan.batch * max(1, plan.epochs // 5))
    every -= every % plan.accumulated
    rule = lr_rule(plan, *_RECIPE, encoder.file, machine.gpu)
    set_optimizer(out, plan, rule, encoder, tuning)
    set_iterations(out, plan, iterations, min(every, iterations))
    warmup = max(1, min(250, iterations // 20))
    out.set(
        'param_scheduler',
        Code(
            f'[dict(_base_.warmup, end={warmup}),\n'
            f"    dict(type='MultiStepLR', milestones={stones}, "
            'by_epoch=False)]'
        ),
    )
