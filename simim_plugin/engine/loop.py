"""A training loop that resumes exactly after any optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import LOOPS

from ..checkpoint import CheckpointError
from ..datasets.colour_draws import defer_colours
from ..datasets.fingerprint import fingerprint_of
from ..datasets.image_set import inner_datasets
from ..errors import SimimError
from .seeding import SeededSampler, seed_by
from .unwrapping import unwrapped


@LOOPS.register_module()
class ExactEpochLoop(EpochBasedTrainLoop):
    """Epochs that can be interrupted and resumed after any optimizer step.

    A resumed run is the same as an uninterrupted one: each image and each
    step has its own seed, and the sampler starts where the run stopped. An
    epoch is a whole number of optimizer steps. As with ``drop_last``,
    another epoch draws the images left over.

    Needs ``sampler=dict(type='SeededSampler')``, and the Runner of this
    package, which restores the place in the epoch.

    Args:
        runner (Runner): the runner.
        dataloader (DataLoader | dict): the training data.
        restart_epoch (bool): on resuming, restart the interrupted epoch with
            the current weights; another number of processes or images per
            step needs this. Defaults to False.
        fit_accumulation (bool): accumulate fewer batches if an epoch has
            too few for one optimizer step. Defaults to False.
        **kwargs: those of mmengine's ``EpochBasedTrainLoop``.

    Raises:
        SimimError: if the sampler or the Runner is another one.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        restart_epoch: bool = False,
        fit_accumulation: bool = False,
        **kwargs: Any,
    ) -> None:
        if not hasattr(runner, 'resumes_latest'):
            raise SimimError(
                'The training loop ExactEpochLoop needs the Runner of this '
                f'package, and this one is a {type(runner).__name__}, which '
                'neither restores its place nor counts accumulated batches '
                'in the learning rate; build the run by SiameseIMRunner.'
                'from_cfg(config) of simim_plugin.engine, or by RUNNERS.'
                'build(config) of mmengine.registry.'
            )
        self.restart_epoch = restart_epoch
        self.accumulated = accumulative_counts(runner.optim_wrapper)
        if isinstance(dataloader, dict):
            seeded = dict(type='SeededDataset', dataset=dataloader['dataset'])
            preprocessor = unwrapped(runner.model).data_preprocessor
            if getattr(preprocessor, 'colours', False):
                seeded['dataset'] = defer_colours(seeded['dataset'])
            dataloader = dict(dataloader, dataset=seeded)
        super().__init__(runner, dataloader, **kwargs)
        self.sampler = self.dataloader.sampler
        if not isinstance(self.sampler, SeededSampler):
            raise SimimError(
                'The training loop ExactEpochLoop cannot seek in a '
                f'{type(self.sampler).__name__}; set train_dataloader.sampler '
                "to dict(type='SeededSampler', shuffle=True)."
            )
        if fit_accumulation:
            self._fit_accumulation(runner)
        self.sampler.trim(self.dataloader.batch_size * self.accumulated)
        self._max_iters = self._max_epochs * len(self.dataloader)
        self._batches: Iterator[Any] | None = None

    def _fit_accumulation(self, runner: Runner) -> None:
        """Accumulate no more batches than an epoch has."""
        batch = self.dataloader.batch_size
        fewer = self.sampler.num_samples // batch
        if not 0 < fewer < self.accumulated:
            return
        intervals = [
            hook.interval
            for hook in runner.hooks
            if isinstance(hook, CheckpointHook)
            and not hook.by_epoch
            and hook.interval > 0
        ]
        # A checkpoint falls between optimizer steps.
        while any(interval % fewer for interval in intervals):
            fewer -= 1
        runner.logger.warning(
            f'The {len(self.dataloader.dataset)} images fill too few batches '
            f'of {batch}, so that a step accumulates {fewer} and not '
            f'{self.accumulated} (fit_accumulation of train_cfg).'
        )
        self.accumulated = fewer
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, dict):
            wrapper['accumulative_counts'] = fewer
        else:
            wrapper._accumulative_counts = fewer

    def run_epoch(self) -> None:
        """Run the rest of an epoch, which may be all of it or nothing."""
        first = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx in range(first, len(self.dataloader)):
            self.run_iter(idx, next(self._batches_from(idx)))
        if not self.dataloader.persistent_workers:
            self._batches = None  # ends the workers
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        for dataset in inner_datasets(self.dataloader.dataset):
            # A wrapper passes on the method of the set in it.
            if hasattr(type(dataset), 'count_together'):
                dataset.count_together()  # the broken images

    def _batches_from(self, first: int) -> Iterator[Any]:
        """Return the batches of the epoch from number ``first`` on.

        Persistent workers go on to the images of the next epoch while this
        one ends. Each image has the seed of its own epoch.
        """
        goes_on = self.dataloader.persistent_workers
        # mmpretrain's SwitchRecipeHook drops the loader's iterator.
        dropped = goes_on and self._batches is not self.dataloader._iterator
        if self._batches is None or dropped:
            self.sampler.start(
                self._epoch,
                first * self.dataloader.batch_size,
                last=self._max_epochs - 1 if goes_on else None,
            )
            self._batches = iter(self.dataloader)
        return self._batches

    def drop_batches(self) -> None:
        """Read the batches after this one anew, with another pipeline."""
        self._batches = self.dataloader._iterator = None

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Run one step from a seed of its own in each process."""
        seed_by(self.sampler.seed, self.runner.rank, self._iter, 1)
        batch = dict(batch_idx=idx, data_batch=data_batch)
        self.runner.call_hook('before_train_iter', **batch)
        outputs = self.runner.model.train_step(
            data_batch, optim_wrapper=self.runner.optim_wrapper
        )
        self.runner.call_hook('after_train_iter', outputs=outputs, **batch)
        self._iter += 1

    @cached_property
    def names(self) -> str:
        """A hash of the names of the images."""
        return fingerprint_of(self.dataloader.dataset)

    def layout(self) -> dict[str, Any]:
        """Return what determines the order of the images."""
        return dict(
            seed=self.sampler.seed,
            processes=self.runner.world_size,
            batch_size=self.dataloader.batch_size,
            accumulated=self.accumulated,
            images=len(self.dataloader.dataset),
            names=self.names,
        )

    def restore(self, meta: dict[str, Any], file: str) -> None:
        """Take the seed of a checkpoint and check its layout.

        With ``restart_epoch``, move ``meta['iter']`` to the start of the
        epoch that was interrupted instead of checking.

        Args:
            meta (dict): ``meta`` of the checkpoint.
            file (str): the checkpoint, for the message.

        Raises:
            CheckpointError: if the layouts differ.
        """
        before, now = dict(meta.get('layout', {})), self.layout()
        length = len(self.dataloader)
        self.sampler.seed = now['seed'] = before.get('seed', now['seed'])
        if before and not before.setdefault('names', '') and now['names']:
            now['names'] = ''
            self.runner.logger.info(
                f'{file} does not say which images its run had; only their '
                'number is compared.'
            )
        if self.restart_epoch:
            done = meta['iter'] - meta['epoch'] * (_length(before) or length)
            if done == (_length(before) or length):  # nothing is interrupted
                meta['epoch'] += 1
            meta['iter'] = meta['epoch'] * length
        elif before != now and dict(before, names='') == dict(now, names=''):
            raise CheckpointError(
                f'The run of {file} had other images: as many, but not of the '
                'same names in the same order; give it the same folder, or '
                'add --restart-epoch to begin the interrupted epoch again '
                'with these.'
            )
        elif before != now:
            raise CheckpointError(
                f'The run of {file} had {_in_words(before)} and this one has '
                f'{_in_words(now)}, so that it cannot go on exactly; set the '
                'same, or add --restart-epoch to begin the interrupted epoch '
                'again.'
            )
        elif not 0 <= meta['iter'] - meta['epoch'] * length <= length:
            raise CheckpointError(
                f'{file} says step {meta["iter"]} of epoch {meta["epoch"]}, '
                f'and an epoch has {length} steps; resume from another '
                'checkpoint.'
            )


def _length(layout: dict[str, Any]) -> int:
    """Return the steps of an epoch of a checkpoint, 0 if it lacks them."""
    names = ('images', 'processes', 'batch_size', 'accumulated')
    if not all(layout.get(name) for name in names):
        return 0
    images, processes, batch, accumulated = (layout[name] for name in names)
    samples = -(-images // processes)
    return samples // (batch * accumulated) * accumulated


def accumulative_counts(optim_wrapper: Any) -> int:
    """Return the batches per optimizer step of a wrapper or its settings."""
    if isinstance(optim_wrapper, dict):
        return optim_wrapper.get('accumulative_counts', 1)
    return optim_wrapper._accumulative_counts


def _in_words(layout: dict[str, Any]) -> str:
    if not layout:
        return 'no note of its place in the data'
    processes, batch, accumulated, images = (
        layout.get(key, 'unknown')
        for key in ('processes', 'batch_size', 'accumulated', 'images')
    )
    return (
        f'{processes} processes x {batch} images x {accumulated} accumulated '
        f'of {images} images'
    )
