"""Choose the settings of a classifier: fine-tuned, or on frozen features."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..checkpoint.families import PLAIN, Family
from .class_folders import Labelled
from .encoders import SIZES, Encoder, check_encoder
from .machine import Machine, fit_batch, need
from .plans import (
    UNTRAINED,
    Plan,
    epochs_for,
    power_of_two,
    square_root_lr,
    three_digits,
    warn,
)
from .tuning import (
    Tuning,
    set_encoder,
    set_epochs,
    set_optimizer,
    set_tuning,
    skip_broken,
)
from .written import Code, Written

_BASES = dict(
    finetune='siamese_im_vit-{}-p16_ft-8xb128-amp-coslr-100e_in1k.py',
    linear='siamese_im_vit-{}-p16_linear-8xb2048-amp-coslr-90e_in1k.py',
    knn='siamese_im_vit-{}-p16_knn_in1k.py',
    logistic='siamese_im_vit-{}-p16_knn_in1k.py',
)
_RECIPES = dict(finetune=(1e-3, 1024), linear=(0.1 * 16384 / 256, 16384))
"""Learning rate and images of an optimizer step."""


def image_size(
    encoder: Encoder, short: int, asked: int | None
) -> tuple[int, str]:
    """Choose the side of the images and say why.

    Args:
        encoder (Encoder): its patch divides the side.
        short (int): median short side of the pictures, pixels.
        asked (int, optional): the user's choice.
    """
    if asked is not None:
        return asked, 'as asked'
    most = 224 if encoder.patch >= 12 else 14 * encoder.patch
    side = max(min(short, most) // encoder.patch, 4) * encoder.patch
    return side, f'half of the pictures have a short side of {short} px'


def plan_classification(
    data: Labelled,
    encoder: Encoder,
    machine: Machine,
    method: str,
    size: int,
    epochs: int | None,
    batch: int | None,
) -> Plan:
    """Choose batch, length and learning rate."""
    images = sum(data.counts.values()) - len(data.pictures.broken)
    frozen = method != 'finetune'
    most = min(1024 if frozen else 128, power_of_two(max(images / 8, 4)))
    kind = 'linear' if frozen else 'finetune'
    step = need(kind, machine, encoder.sizes, size, encoder.patch)
    batch, room = fit_batch(machine, step, most, batch)
    accumulated = 1 if frozen else max(most // batch, 1)
    total = batch * accumulated
    recipe, base = _RECIPES.get(method, (0.0, total))
    if method == 'linear':  # LARS: the recipe's own, linear rule
        lr = three_digits(recipe * total / base)
        recipe = lr
    else:
        lr = square_root_lr(recipe, base, total)
    steps = 4_000 if machine.gpu else 1_000
    epochs = epochs or epochs_for(images, total, steps, 20, 200)
    plan = Plan(
        *(images, batch, accumulated, epochs, lr, max(1, epochs // 20)),
        *(recipe, room),
    )
    if method in _RECIPES:
        warn(plan, 'classification', data.counts)
    return plan


def write_classification(
    data: Labelled,
    encoder: Encoder,
    machine: Machine,
    plan: Plan,
    method: str,
    size: tuple[int, str],
    about: list[str],
    tuning: Tuning,
    lists: Mapping[str, str],
) -> Written:
    """Write the settings of a classifier.

    Args:
        data (Labelled): the pictures.
        encoder (Encoder): to start from.
        machine (Machine): that trains.
        plan (Plan): of the training; kNN and logistic regression have none.
        method (str): 'finetune', 'linear', 'knn' or 'logistic'.
        size (tuple[int, str]): side of the images and why.
        about (list[str]): the first lines.
        tuning (Tuning): of the encoder in fine-tuning.
        lists (Mapping[str, str]): files of the ``lists`` by part, none if
            whole folders are meant.

    Raises:
        SimimError: if frozen features are asked for without an encoder.
    """
    check_encoder(encoder, tuning.option if method == 'finetune' else method)
    packaged = SIZES if method == 'finetune' else SIZES[:3]
    name = encoder.name if encoder.name in packaged else 'base'
    patch = 14 if (method, name) == ('finetune', 'huge') else 16
    out = Written(_base_of(method, str(name)), about)
    out.set('img_size', *size)
    _set_model(out, data, encoder, method, str(name), patch)
    set_tuning(out, encoder, tuning)
    loop = 'test_cfg.' if method in UNTRAINED else ''
    _set_resize(out, encoder.family, loop)
    _set_data(out, f'{loop}train_dataloader', data, 'train', machine, lists)
    _set_data(out, 'test_dataloader', data, 'val', machine, lists)
    if method in UNTRAINED:
        _set_classifier(out, encoder, plan, method)
    else:
        out.set('val_dataloader', Code('test_dataloader'))
        _set_schedule(out, encoder, plan, method, tuning)
    return out


def _base_of(method: str, name: str) -> str:
    if method == 'finetune' and name in ('large', 'huge'):
        patch = 14 if name == 'huge' else 16
        return (
            f'siamese_im_vit-{name}-p{patch}_ft-8xb128-amp-coslr-50e_in1k.py'
        )
    return _BASES[method].format(name)


def _set_model(
    out: Written,
    data: Labelled,
    encoder: Encoder,
    method: str,
    name: str,
    patch: int,
) -> None:
    backbone = 'model.backbone'
    packaged = dict(arch=name, patch_size=patch)
    # Fine-tuning has a norm of its own.
    changes = encoder.changes(packaged, final_norm=method != 'finetune')
    set_encoder(out, encoder, changes, data.pictures.channels)
    if method == 'linear':
        out.set(f'{backbone}.frozen_stages', encoder.depth)
        if encoder.family.pool == 'cls':
            out.set(f'{backbone}.out_type', 'cls_token')
    if method in ('finetune', 'linear'):
        out.set('model.head.num_classes', len(data.classes))
        if encoder.name != name:
            out.set('model.head.in_channels', encoder.width)
        out.set('model.data_preprocessor.num_classes', len(data.classes))
    encoder.set_statistics(out, data.pictures.channels)
    # Of more channels, the transforms that fill pixels are left out.
    if method == 'finetune' and data.pictures.channels <= 3:
        _set_fillings(out, encoder.family)


def _set_fillings(out: Written, family: Family) -> None:
    """Let the augmentation fill pixels by a family's mean and std, in BGR."""
    mean, std = [*family.mean[::-1]], [*family.std[::-1]]
    same = (family.mean, family.std) == (PLAIN.mean, PLAIN.std)
    if same or len(mean) != 3:
        return
    erased, turned = 'filled.RandomErasing', 'filled.RandAugment.hparams'
    out.set(f'{erased}.fill_color', mean, 'of the encoder, in BGR')
    out.set(f'{erased}.fill_std', std)
    out.set(f'{turned}.pad_val', [round(level) for level in mean])
    out.set(f'{turned}.interpolation', 'bicubic')
    out.set(
        'train_dataloader.dataset.pipeline',
        Code(
            "[\n            dict(step, **filled.get(step['type'], {}))\n"
            '            for step in _base_.train_pipeline]'
        ),
    )


def _set_resize(out: Written, family: Family, loop: str) -> None:
    """Resize test images, and those of frozen features, as a family does."""
    changes: dict[str, int | str] = {}
    if family.crop != PLAIN.crop:
        changes['size'] = round(224 / family.crop)  # img_size scales it
    if family.interpolation != PLAIN.interpolation:
        changes['interpolation'] = family.interpolation
    if not changes:
        return
    words = ', '.join(f'{key}={value!r}' for key, value in changes.items())
    out.set(
        'test_pipeline',
        Code(
            f"[dict(step, {words})\n    if 'Resize' in step['type'] else "
            'step for step in _base_.test_pipeline]'
        ),
        f'crop of {100 * family.crop:.1f} %',
    )
    for loader in filter(None, ('test_', loop and f'{loop}train_')):
        out.set(f'{loader}dataloader.dataset.pipeline', Code('test_pipeline'))


def _set_data(
    out: Written,
    loader: str,
    data: Labelled,
    part: str,
    machine: Machine,
    lists: Mapping[str, str],
) -> None:
    root = data.train if part == 'train' else data.val
    counts = data.counts if part == 'train' else data.tested
    kind = 'training' if part == 'train' else 'test'
    out.set(f'{loader}.num_workers', machine.workers)
    out.set(
        f'{loader}.dataset.data_root',
        os.path.abspath(root),
        f'{sum(counts.values())} {kind} pictures',
    )
    if 'classes' in lists:
        out.set(f'{loader}.dataset.ann_file', lists[part])
        out.set(f'{loader}.dataset.classes', lists['classes'])
    elif lists:
        out.set(f'{loader}.dataset.list_file', lists[part])
    elif part == 'train':
        skip_broken(out, f'{loader}.dataset', data.pictures)


def _set_classifier(
    out: Written, encoder: Encoder, plan: Plan, method: str
) -> None:
    """Set what a test fits to frozen features."""
    if method == 'logistic':
        out.set(
            'test_cfg.classifier',
            Code("dict(_delete_=True, type='LogisticClassifier', l2=None)"),
        )
    else:
        ks = tuple(k for k in (1, 5, 10, 20) if k <= plan.images)
        out.set('test_cfg.classifier.ks', ks, 'neighbours')
    family = encoder.family
    out.set('test_cfg.pool', family.pool, f'as for a {family.name}')


def _set_schedule(
    out: Written,
    encoder: Encoder,
    plan: Plan,
    method: str,
    tuning: Tuning,
) -> None:
    out.set('train_dataloader.batch_size', plan.batch, str(plan.room))
    rule = f'1e-3 x sqrt({plan.total} / 1024)'
    if method == 'linear':
        rule = f'0.1 x {plan.total} / 256, by LARS'
    trained = tuning if method == 'finetune' else None
    set_optimizer(out, plan, rule, encoder, trained)
    set_epochs(out, plan)
    out.set('train_cfg.val_interval', max(1, plan.epochs // 10))
    out.set('default_hooks.checkpoint.interval', max(1, plan.epochs // 10))
