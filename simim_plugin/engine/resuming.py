"""Write whole checkpoints, read them safely and find the latest one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from logging import Logger
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.runner import Runner

from ..checkpoint import (
    CheckpointError,
    check_fit,
    load_weights,
    read_checkpoint,
)
from ..files import complete_file
from .loop import ExactEpochLoop
from .unwrapping import unwrapped

STOP_NAME = 'stop_iter_{}.pth'
"""File name of the checkpoint that a stopped run writes."""

_NAME = re.compile(r'(stop_)?(epoch|iter)_(\d+)\.pth')
# Whether it is of a stop, 'epoch' or 'iter', the number and the path.
_Numbered = tuple[bool, str, int, Path]


class CheckpointMixin(Runner):
    """Save, load and resume with whole and safe checkpoints."""

    @property
    def resumes_latest(self) -> bool:
        """Whether the run resumes without a file to resume from."""
        return self._resume and self._load_from is None

    def load_or_resume(self) -> None:
        """Resume from the latest whole checkpoint if no file is given.

        Raises:
            CheckpointError: if there are checkpoints and none can be read.
        """
        if self.resumes_latest:
            found: list[Any] = [None]
            if is_main_process():
                for part in Path(self.work_dir).glob('*.pth.part'):
                    part.unlink()  # a killed process was writing it
                length = len(self.train_dataloader)
                found = [latest_checkpoint(self.work_dir, length, self.logger)]
            broadcast_object_list(found)
            self._load_from: Any = found[0]
            # Otherwise mmengine would follow the file last_checkpoint.
            self._resume: Any = found[0] is not None
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume as mmengine does; with ``restart_epoch``, move schedules.

        Steps of another size change the steps of an epoch and the learning
        rate, so the schedules in the checkpoint do not apply.
        """
        restart = getattr(self.train_loop, 'restart_epoch', False)
        if restart:
            kwargs['resume_param_scheduler'] = False
        super().resume(filename, *args, **kwargs)
        if restart:
            for scheduler in self.param_schedulers or ():
                scheduler.last_step = scheduler._global_step = self.iter - 1
                scheduler.step()

    def load_checkpoint(self, filename: str, *_: Any, **__: Any) -> dict:
        """Load weights from any known format, by allow-list.

        To resume, the file must hold the whole state of the same run.
        Otherwise it must hold every part of the model; parts that the model
        lacks are dropped.

        Raises:
            CheckpointError: if the file is unsafe, broken or does not fit.
        """
        checkpoint = read_checkpoint(filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = unwrapped(self.model)
        if self._resume:
            state = checkpoint.get('state_dict', {})
            check_fit(model.state_dict(), state, filename)
            if not {'meta', 'optimizer'} <= checkpoint.keys():
                raise CheckpointError(
                    f'The checkpoint {filename} holds weights but no state '
                    'of a run; start a new run from it by --pretrained.'
                )
            # mmengine would run this text as Python but never writes it.
            checkpoint['meta'].pop('config', None)
            if isinstance(self.train_loop, ExactEpochLoop):
                self.train_loop.restore(checkpoint['meta'], filename)
            model.load_state_dict(state)
            self.logger.info(f'Loaded the checkpoint {filename!r}')
        else:
            load_weights(model, filename, checkpoint)
        self._has_loaded = True
        return checkpoint

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        """Write to ``NAME.pth.part``, sync it to the disk and rename it.

        A checkpoint of an epoch or iteration replaces those of stops.
        """
        if isinstance(self.train_loop, ExactEpochLoop):
            layout = self.train_loop.layout()
            kwargs['meta'] = dict(kwargs.get('meta') or {}, layout=layout)
        file = Path(out_dir, filename)
        with complete_file(file) as part:
            super().save_checkpoint(out_dir, part.name, *args, **kwargs)
            _sync(part)
        _sync(file.parent)
        if _NAME.fullmatch(filename):
            for stop in file.parent.glob(STOP_NAME.format('*')):
                if stop != file:
                    stop.unlink()


def latest_checkpoint(
    folder: str, epoch_length: int, logger: Logger
) -> str | None:
    """Return the most advanced checkpoint in a folder that can be read.

    The checkpoint of a stop comes first: any later one would have replaced
    it. Each unreadable one is logged. None if the folder has none.

    Raises:
        CheckpointError: if there are checkpoints and none can be read.
    """
    lengths = dict(epoch=epoch_length, iter=1)
    found = [
        (stop, number * lengths[unit], path)
        for stop, unit, number, path in numbered_checkpoints(folder)
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


def numbered_checkpoints(folder: str) -> Iterator[_Numbered]:
    """Yield the checkpoints of epochs, iterations and stops in a folder."""
    for path in sorted(Path(folder).glob('*.pth')):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            stop, unit, number = match.groups()
            yield stop is not None, unit, int(number), path


def _sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
