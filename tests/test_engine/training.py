"""Small training runs for the tests of hooks."""

import json
import math
import time
from itertools import count

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmpretrain.registry import HOOKS
from PIL import Image
from torch.utils.data import Dataset

from simim_plugin.engine import SiameseIMRunner

from ..test_models.helpers import small_batch, small_model

QUICK_COLLAPSE_MONITOR = dict(type='CollapseMonitor', interval=2, patience=2)
GUARD = dict(type='NonFiniteGuard')


class Pairs(Dataset):
    """Items as the pair pipeline makes them.

    Args:
        size (int): number of images.
        spoiled (set[int]): images whose online view is NaN.
        seconds (float): time to load one image.
    """

    def __init__(self, size=24, spoiled=(), seconds=0.0):
        self.inputs, self.samples = small_batch(size=size)
        self.seconds = seconds
        for k in spoiled:
            self.inputs[0][k] = math.nan

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, k):
        time.sleep(self.seconds)
        views = [view[k] for view in self.inputs]
        return dict(inputs=views, data_samples=self.samples[k])


def smooth_picture(file, draw):
    """Write a picture of 40 x 30 px whose neighbours are alike."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw.integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((40, 30), Image.BICUBIC).save(file)


def make_runner(
    folder,
    hooks=(),
    dataset=None,
    model=None,
    epochs=1,
    batch=4,
    wrapper=None,
    **options,
):
    """Build a Runner of epochs of 6 steps of 4 images."""
    optim_wrapper = dict(
        type='AutocastOptimWrapper',
        optimizer=dict(type='AdamW', lr=0.001),
        clip_grad=dict(max_norm=1.0),
    )
    optim_wrapper.update(options.pop('optim_wrapper', {}))
    settings = dict(train_dataloader=dict(batch_size=batch))
    if wrapper is not None:
        settings['model_wrapper_cfg'] = wrapper
    if 'compile' in options:
        settings['compile'] = options.pop('compile')
    return SiameseIMRunner(
        model or small_model(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=batch,
            num_workers=0,
            drop_last=True,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='collate_pairs'),
            dataset=dataset or Pairs(),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=optim_wrapper,
        custom_hooks=[dict(type='MomentumHook', base_momentum=0.9), *hooks],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        log_processor=options.pop('log_processor', dict(window_size=1)),
        default_scope='mmpretrain',
        randomness=dict(seed=0),
        experiment_name=str(folder),
        cfg=Config(settings),
        **options,
    )


def trainer(folder):
    """Return a function that trains with some hooks in ``folder``.

    It returns the Runner with its folder, which its attribute ``runner``
    keeps if training raises.
    """
    init_default_scope('mmpretrain')
    number = count()

    def train(*hooks, **options):
        run = folder / f'run{next(number)}'
        train.runner = make_runner(run, hooks, **options)
        train.runner.folder = run
        train.runner.train()
        return train.runner

    return train


def printed(runner) -> str:
    (file,) = runner.folder.glob('*/*.log')
    return file.read_text()


def scalars(runner) -> list[dict]:
    (file,) = runner.folder.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


def state(runner) -> dict:
    """Copy parameters, statistics and moments: all that a step changes."""
    moments = runner.optim_wrapper.optimizer.state_dict()['state']
    return {
        **{n: v.clone() for n, v in runner.model.state_dict().items()},
        **{
            f'{k}.{name}': value.clone()
            for k, of_parameter in moments.items()
            for name, value in of_parameter.items()
        },
    }


@HOOKS.register_module(force=True)
class StateHook(Hook):
    """Record the state before and after every iteration."""

    priority = 'LOWEST'

    def before_train(self, runner):
        runner.states = []

    def before_train_iter(self, runner, *_, **__):
        runner.states.append([state(runner)])

    def after_train_iter(self, runner, *_, **__):
        runner.states[-1].append(state(runner))


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) for name in one
    )
