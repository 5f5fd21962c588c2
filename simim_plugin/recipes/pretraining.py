"""Choose the settings of a pretraining."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..pictures.archives import find_archives
from ..pictures.listing import list_archives
from ..pictures.walking import EXTENSIONS, Census, list_images
from .encoders import Encoder
from .file_lists import below, common_folder, is_list, read_list
from .machine import Machine, fit_batch, need
from .plans import Plan, epochs_for, power_of_two, square_root_lr, warn
from .survey import Survey, survey
from .tuning import set_epochs, skip_broken
from .written import Code, Written

SIZES = (64, 96, 128, 160, 192, 224)
"""Sides of the views, pixels."""

RECIPE_LR, RECIPE_BATCH = 6.25e-5 * 4096 / 256, 4096
STEPS = dict(gpu=40_000, cpu=4_000)
"""Optimizer steps of the default length."""

HELD_OUT = 32
"""Pictures that the folder configs hold out, at most one in 20."""


@dataclass(frozen=True)
class Unlabelled:
    """Pictures without labels.

    Args:
        root (str): their folder.
        pictures (Survey): what they are.
        lists (dict[str, list[str]]): the lines of ``train``, names below
            ``root``; empty if all pictures of the folder are meant.
    """

    root: str
    pictures: Survey
    lists: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.pictures)


def read_unlabelled(root: str) -> Unlabelled:
    """Read a folder of pictures in any arrangement, archives, or a list.

    Raises:
        FileNotFoundError: if there is no such folder or archive.
        SimimError: if it has no picture that can be read, or a line of the
            list is wrong.
    """
    if is_list(root):
        paths = [one.path for one in read_list(root, labelled=False)]
        seen = survey(paths)
        folder = common_folder(paths)
        return Unlabelled(folder, seen, {'train': below(paths, folder)})
    files = list_images(root) if os.path.isdir(root) else []
    if not files:  # archives beside pictures are left
        archives = find_archives(root)
        if not (os.path.isdir(root) or archives):
            raise FileNotFoundError(
                f'There is no folder {root}; check --data.'
            )
        found = list_archives(root, EXTENSIONS, Census()) if archives else {}
        files = [path for path, _ in found.get('', ())]
    if not files:
        raise FileNotFoundError(
            f'There is no picture in {root} or below; check --data.'
        )
    return Unlabelled(root, survey(files))


def view_size(
    pictures: Survey, patch: int, machine: Machine, asked: int | None
) -> tuple[int, str]:
    """Choose the side of the views and say why.

    Args:
        pictures (Survey): of the data set.
        patch (int): side of a patch, pixels.
        machine (Machine): without a GPU, views are small.
        asked (int, optional): the user's choice.
    """
    if asked is not None:
        return asked, 'as asked'
    short = pictures.sides[0]
    most = 224 if machine.gpu else 128
    fit = [s for s in SIZES if s <= min(short, most)] or [SIZES[0]]
    size = max(patch * 4, fit[-1] // patch * patch)
    if short > most and not machine.gpu:
        return size, 'small views, since there is no GPU'
    return size, f'half of the pictures have a short side of {short} px'


def plan_pretraining(
    data: Unlabelled,
    encoder: Encoder,
    machine: Machine,
    size: int,
    epochs: int | None,
    batch: int | None,
) -> Plan:
    """Choose batch, length and learning rate."""
    images = data.pictures.count - len(data.pictures.broken)
    images -= min(HELD_OUT, images // 20)
    most = min(512 if machine.gpu else 64, power_of_two(images / 4))
    step = need('pretraining', machine, encoder.sizes, size, encoder.patch)
    batch, room = fit_batch(machine, step, most, batch)
    accumulated = max(most // batch, 1)
    total = batch * accumulated
    lr = RECIPE_LR / (10 if encoder.file else 1)
    steps = STEPS['gpu' if machine.gpu else 'cpu']
    epochs = epochs or epochs_for(images, total, steps, 100, 4000)
    plan = Plan(
        images,
        batch,
        accumulated,
        epochs,
        square_root_lr(lr, RECIPE_BATCH, total),
        warmup=max(1, round(epochs * (0.05 if encoder.file else 0.1))),
        recipe_lr=lr,
        room=room,
    )
    warn(plan, 'pretraining')
    return plan


def write_pretraining(
    data: Unlabelled,
    encoder: Encoder,
    machine: Machine,
    plan: Plan,
    size: tuple[int, str],
    about: list[str],
    lists: Mapping[str, str],
) -> Written:
    """Write the settings of a pretraining.

    See :func:`write_classification`.
    """
    name = encoder.name if encoder.name in ('tiny', 'small', 'base') else None
    per = '64-accum8' if name in ('base', None) else '256-accum4'
    out = Written(
        f'siamese_im_vit-{name or "base"}-p16_1xb{per}-amp-coslr-400e_'
        'folder.py',
        about,
    )
    out.set('img_size', *size)
    _set_model(out, data, encoder, name)
    _set_data(out, data, machine, plan)
    if lists:
        out.set('train_dataloader.dataset.list_file', lists['train'])
    _set_schedule(out, encoder, plan)
    return out


def _set_model(
    out: Written, data: Unlabelled, encoder: Encoder, name: str | None
) -> None:
    channels = data.pictures.channels
    if encoder.file:
        source = encoder.pretrained(channels)
        out.set('model.pretrained', source, encoder.size)
    encoder.set_statistics(out, channels)
    changes = encoder.changes(dict(arch=name or 'base', patch_size=16))
    for key, value in changes.items():
        out.set(f'model.backbone.{key}', value)
    if channels > 3:
        out.set('model.backbone.in_channels', channels)
    if name is None:
        width, heads = encoder.width, encoder.arch['num_heads']
        out.set(
            'model.projector',
            dict(in_dims=width, embed_dims=width, num_heads=heads),
        )
        out.set('model.neck', dict(embed_dims=width, num_heads=heads))
        out.set('model.head.negative_weight', Code(f'0.02 * 768 / {width}'))


def _set_data(
    out: Written, data: Unlabelled, machine: Machine, plan: Plan
) -> None:
    loader = 'train_dataloader'
    out.set(f'{loader}.batch_size', plan.batch, str(plan.room))
    out.set(f'{loader}.num_workers', machine.workers, f'{machine.cores} cores')
    out.set(f'{loader}.dataset.data_root', os.path.abspath(data.root))
    skip_broken(out, f'{loader}.dataset', data.pictures)
    if data.pictures.deep:
        load = (
            "[\n    dict(_base_.load, window='percentiles'),\n"
            '    *_base_.train_pipeline[1:]]'
        )
        out.set('train_pipeline', Code(load), 'more than 8 bits')
        out.set(f'{loader}.dataset.pipeline', Code('train_pipeline'))


def _set_schedule(out: Written, encoder: Encoder, plan: Plan) -> None:
    out.set(
        'optim_wrapper.optimizer.lr',
        plan.lr,
        f'1e-3 x sqrt({plan.total} / 4096)'
        + (' / 10, to continue' if encoder.file else ''),
    )
    out.set(
        'optim_wrapper.accumulative_counts',
        plan.accumulated,
        f'{plan.total} images in a step',
    )
    out.set('auto_scale_lr.base_batch_size', plan.total)
    set_epochs(out, plan)
    if encoder.file:  # as docs/encoders.md continues
        out.set(
            'momentum_hook',
            Code('dict(_base_.momentum_hook, base_momentum=0.999)'),
            'slow target',
        )
        out.set(
            'custom_hooks',
            Code(
                "[\n    momentum_hook, dict(type='HoldBackboneHook', "
                f'epochs={plan.warmup}),\n    *_base_.custom_hooks[1:]]'
            ),
            'the encoder waits for the new parts',
        )
    every = max(1, plan.epochs // 20)
    out.set(
        'default_hooks.checkpoint.interval',
        every,
        f'epochs: {plan.epochs // every} checkpoints',
    )
