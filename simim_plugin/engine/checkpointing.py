"""Checkpoints on the disk: always a whole one there, and found again."""

from __future__ import annotations

import os
import re
from logging import Logger
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..checkpoint import CheckpointError, read_checkpoint
from ..errors import SimimError
from .exact_loop import accumulative_counts

STOP_NAME = 'stop_iter_{}.pth'
_NAME = re.compile(r'(?:stop_)?(epoch|iter)_(\d+)\.pth')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's, but the oldest goes only when the newest is complete.

    mmengine's removes it before, so that with ``max_keep_ckpts=1`` a kill
    in between leaves none.
    """

    def before_train(self, runner: Runner) -> None:
        """Refuse checkpoints between optimizer steps.

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

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict
    ) -> None:
        oldest = None
        if self.max_keep_ckpts > 0:
            kept = self.keep_ckpt_ids
            if len(kept) == self.max_keep_ckpts and kept[-1] != step:
                oldest = kept.popleft()
        super()._save_checkpoint_with_step(runner, step, meta)
        if oldest is not None:
            remove(Path(self.out_dir, self.filename_tmpl.format(oldest)))
        remove_stop_files(self.out_dir)


@master_only
def remove(path: Path) -> None:
    """Remove a file, in one process, if it is there."""
    path.unlink(missing_ok=True)


def remove_stop_files(folder: str, but: str = '') -> None:
    """Remove the checkpoints of earlier stops, all but one."""
    for path in Path(folder).glob(STOP_NAME.format('*')):
        if path.name != but:
            remove(path)


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest_checkpoint(
    folder: str, epoch_length: int, logger: Logger
) -> str | None:
    """Find the furthest checkpoint of a run that can be read.

    Args:
        folder (str): its work directory.
        epoch_length (int): iterations of an epoch.
        logger (Logger): hears of those that cannot be read.

    Returns:
        str | None: None if there is none at all.

    Raises:
        CheckpointError: if there are some and none can be read.
    """
    found: list[tuple[int, Path]] = []
    for path in Path(folder).glob('*.pth'):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            unit, number = match.groups()
            length = epoch_length if unit == 'epoch' else 1
            found.append((int(number) * length, path))
    for _, path in sorted(found, reverse=True):
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
