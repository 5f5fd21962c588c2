"""Hooks of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..datasets.labelled_folder import check_same_classes
from ..errors import SimimError
from .schedule import cosine_momentum
from .unwrapping import unwrapped


@HOOKS.register_module()
class MomentumHook(Hook):
    """Moves the target branch once per optimizer step, at its start.

    Step t moves it with momentum m(t), a half cosine from ``base_momentum``
    to 1 over the run, before the target of step t is computed (REFERENCE
    4.2 and 4.5). m(t) follows from the iteration alone, which is in every
    checkpoint.

    Args:
        base_momentum (float): momentum at the start, 0 to 1. Defaults to
            0.995.
    """

    def __init__(self, base_momentum: float = 0.995) -> None:
        self.base_momentum = base_momentum

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Move the target if an optimizer step begins here."""
        if runner.iter % runner.optim_wrapper._accumulative_counts:
            return
        progress = runner.iter / runner.max_iters
        momentum = cosine_momentum(self.base_momentum, progress)
        unwrapped(runner.model).update_target(momentum)
        runner.message_hub.update_scalar('train/momentum', momentum)


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs how fast training is, and says when loading holds it up.

    ``images_per_second`` over all processes; ``data_wait``, the share of
    the time in which a step waits for its batch, 0 to 1; on a CPU
    ``memory``, what the process holds without its loader workers, in MiB
    (on a GPU mmengine logs the peak there).

    Of normal priority, like mmengine's timer, which is registered first.

    Args:
        interval (int): iterations over which waiting is judged. Defaults
            to 200.
        max_wait (float): share above which a warning says so. Defaults to
            0.2.
    """

    def __init__(self, interval: int = 200, max_wait: float = 0.2) -> None:
        self.interval = interval
        self.max_wait = max_wait

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Add the figures to the log."""
        hub = runner.message_hub
        seconds = hub.get_scalar('train/time').current()
        images = len(data_batch['data_samples']) * runner.world_size
        hub.update_scalar('train/images_per_second', images / seconds)
        window = runner.log_processor.window_size
        hub.update_scalar('train/data_wait', _waiting(runner, window))
        if not torch.cuda.is_available() and _MEMORY.exists():
            hub.update_scalar('train/memory', resident_mebibytes())
        if self.every_n_train_iters(runner, self.interval):
            share = _waiting(runner, self.interval)
            if share > self.max_wait:
                workers = runner.train_dataloader.num_workers
                last = runner.iter + 1
                # The numbers make it another message than the one before,
                # which mmengine's logger would not repeat.
                runner.logger.warning(
                    f'Training waited for data {share:.0%} of the time in '
                    f'iterations {last - self.interval + 1} to {last}: raise '
                    f'train_dataloader.num_workers (now {workers}), or put '
                    'the images on a faster disk.'
                )


_MEMORY = Path('/proc/self/statm')


def resident_mebibytes() -> int:
    """Memory that this process holds now, on Linux."""
    pages = int(_MEMORY.read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') // 2**20


def _waiting(runner: Runner, window: int) -> float:
    """Share of the last iterations' time that went by without a batch."""
    waited, taken = (
        runner.message_hub.get_scalar(f'train/{name}').mean(window)
        for name in ('data_time', 'time')
    )
    return float(waited / taken)


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compare the class counts of a model's heads with the data sets'.

    MMPretrain's ``ClassNumCheckHook`` looks at the validation set only
    after the first epoch, and ends in an AssertionError.

    Args:
        parts (Sequence[str]): the parts of the model that hold heads of the
            data's classes. Defaults to a classifier's ``head``.
    """

    def __init__(self, parts: Sequence[str] = ('head',)) -> None:
        self.parts = parts

    def before_train(self, runner: Runner) -> None:
        """Check the training set, and the validation set if there is one.

        Raises:
            SimimError: if a head has another number of classes, or the two
                sets have others.
        """
        train = runner.train_dataloader.dataset
        self._check(runner, 'training', train)
        if runner.val_loop is not None:
            val = runner.val_dataloader.dataset
            self._check(runner, 'validation', val)
            check_same_classes(train, 'validation', val)

    def before_test(self, runner: Runner) -> None:
        """Check the test set.

        Raises:
            SimimError: if a head has another number of classes.
        """
        self._check(runner, 'test', runner.test_dataloader.dataset)

    def _check(self, runner: Runner, name: str, dataset: Any) -> None:
        model = unwrapped(runner.model)
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        if classes is None:
            return
        for path, head in model.named_modules():
            count = getattr(head, 'num_classes', None)
            if path.partition('.')[0] not in self.parts or count is None:
                continue
            if count != len(classes):
                place = getattr(dataset, 'ann_file', '') or dataset.data_root
                raise SimimError(
                    f"The model's {path} has {count} classes and the {name} "
                    f'set of {place} has {len(classes)}; set num_classes of '
                    'the model, or check the data set and its metainfo.'
                )
