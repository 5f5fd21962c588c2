"""Checkpoints on the disk: always a whole one there, and found again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from logging import Logger
from pathlib import Path

from mmengine.dist import barrier, master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..checkpoint import CheckpointError, read_checkpoint
from ..errors import SimimError
from .loop import accumulative_counts

STOP_NAME = 'stop_iter_{}.pth'
_NAME = re.compile(r'(stop_)?(epoch|iter)_(\d+)\.pth')
_OUTDATED = 'outdated_ckpt_id'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's, but the oldest goes only when the newest is complete.

    mmengine's removes it before, so that with ``max_keep_ckpts=1`` a kill
    in between leaves none.
    """

    def before_train(self, runner: Runner) -> None:
        """Refuse checkpoints between optimizer steps; remove what a kill left.

        Raises:
            SimimError: the gathered gradients would be lost.
        """
        accumulated = accumulative_counts(runner.optim_wrapper)
        if not self.by_epoch and self.interval % accumulated:
            raise SimimError(
                f'A checkpoint every {self.interval} iterations falls between '
                f'optimizer steps of {accumulated} iterations; set '
                'default_hooks.checkpoint.interval to a multiple of it.'
            )
        super().before_train(runner)
        if self.max_keep_ckpts > 0:
            done = runner.epoch if self.by_epoch else runner.iter
            kept = self.keep_ckpt_ids
            while kept and kept[-1] > done:  # an epoch begins again
                kept.pop()
            outdated = runner.message_hub.runtime_info.get(_OUTDATED)
            if outdated is not None and outdated not in kept:
                remove(self._file(outdated))

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict
    ) -> None:
        oldest = None
        if self.max_keep_ckpts > 0:
            kept = self.keep_ckpt_ids
            if len(kept) == self.max_keep_ckpts and kept[-1] != step:
                oldest = kept.popleft()
                runner.message_hub.update_info(_OUTDATED, oldest)
        super()._save_checkpoint_with_step(runner, step, meta)
        if oldest is not None:
            remove(self._file(oldest))

    def _file(self, step: int) -> Path:
        return Path(self.out_dir, self.filename_tmpl.format(step))


class BranchHook(Hook):
    """Makes the start of a run the furthest place in its work directory.

    What is further there is of another run, or of another course of this
    one: it is renamed, so that ``--resume`` does not find it.

    Args:
        goes_on (bool): whether the run goes on from the checkpoint that
            ``--resume`` finds, so that there is nothing to leave behind.
    """

    priority = 'LOWEST'

    def __init__(self, goes_on: bool) -> None:
        self.goes_on = goes_on

    def before_train(self, runner: Runner) -> None:
        """Begin with a checkpoint of its own; rename those further on."""
        restarts = getattr(runner.train_loop, 'restart_epoch', False)
        if self.goes_on and not restarts:
            return
        barrier()  # until all have read what may be removed or renamed
        own = ''
        if runner._resume:
            own = STOP_NAME.format(runner.iter)
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            runner.save_checkpoint(
                runner.work_dir, own, meta=meta, by_epoch=False
            )
        _set_aside(runner, own)


@master_only
def _set_aside(runner: Runner, but: str) -> None:
    done = dict(epoch=runner.epoch, iter=runner.iter)
    names = []
    for stop, unit, number, path in _numbered(runner.work_dir):
        if path.name != but and (stop or number > done[unit]):
            path.rename(f'{path}.stale')
            names.append(path.name)
    if names:
        runner.logger.warning(
            f'Set aside in {runner.work_dir} as NAME.stale, because this run '
            f'has not been there: {", ".join(names)}.'
        )


@master_only
def remove(path: Path) -> None:
    """Remove a file, in one process, if it is there."""
    path.unlink(missing_ok=True)


def remove_stop_files(newest: Path) -> None:
    """Remove the checkpoints of stops that a checkpoint follows on."""
    if _NAME.fullmatch(newest.name):
        for path in newest.parent.glob(STOP_NAME.format('*')):
            if path != newest:
                remove(path)


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbered(folder: str) -> Iterator[tuple[bool, str, int, Path]]:
    for path in sorted(Path(folder).glob('*.pth')):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            stop, unit, number = match.groups()
            yield stop is not None, unit, int(number), path


def latest_checkpoint(
    folder: str, epoch_length: int, logger: Logger
) -> str | None:
    """Find the furthest checkpoint of a run that can be read.

    That of a stop comes first: the next one would have removed it.

    Args:
        folder (str): its work directory.
        epoch_length (int): iterations of an epoch.
        logger (Logger): hears of those that cannot be read.

    Returns:
        str | None: None if there is none at all.

    Raises:
        CheckpointError: if there are some and none can be read.
    """
    lengths = dict(epoch=epoch_length, iter=1)
    found = [
        (stop, number * lengths[unit], path)
        for stop, unit, number, path in _numbered(folder)
    ]
    for *_, path in sorted(found, reverse=True):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            logger.warning(f'Skipped a broken checkpoint: {error}')
        else:
            return str(path)
    if found:
        raise CheckpointError(
            f'None of the {len(found)} checkpoints in {folder} can be read; '
            'restore one, or start again in another --work-dir.'
        )
    return None


def drop_unfinished(folder: str) -> None:
    """Remove what a kill in the middle of writing left behind."""
    for path in Path(folder).glob('*.pth.part'):
        remove(path)
