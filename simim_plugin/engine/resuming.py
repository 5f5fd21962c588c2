"""Write whole checkpoints, read them safely and find the latest one."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from functools import cached_property
from logging import Logger
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.hooks import EMAHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.models import BaseSelfSupervisor

from ..checkpoint import CheckpointError, load_weights, read_checkpoint
from ..checkpoint.loading import check_fit
from ..checkpoint.statement import FAMILY
from ..datasets.fingerprint import fingerprint_of
from ..errors import SimimError, Trouble
from ..files import complete_file
from ..runs.batch_norm import depends_on_sync_bn
from ..runs.changes import Change, Kind, changes, fixed_ends, some
from ..runs.lock import WorkDirLock
from ..runs.stopping import STOP_NAME
from .loop import ExactEpochLoop
from .run_state import (
    broken_state,
    check_optimizer,
    check_schedules,
    check_state,
    moved_parameters,
)
from .schedule import replay
from .unwrapping import unwrapped

_NAME = re.compile(r'(stop_)?(epoch|iter)_(\d+)\.pth')
# Whether it is of a stop, 'epoch' or 'iter', the number and the path.
_Numbered = tuple[bool, str, int, Path]


class CheckpointMixin(Runner):
    """Save, load and resume with whole and safe checkpoints."""

    extend = accept_changes = relist = _renewed = False
    work_dir_lock: WorkDirLock | None = None

    @classmethod
    def from_cfg(cls, cfg: Any) -> Any:
        """Build as mmengine does; the options of ``--resume`` count.

        ``extend``, ``accept_changes`` and ``relist`` hold for this start
        only: no config in the work directory and no checkpoint keeps them.
        """
        cfg = copy.deepcopy(cfg)
        names = ('extend', 'accept_changes', 'relist')
        asked = {name: cfg.pop(name, False) for name in names}
        runner = super().from_cfg(cfg)
        vars(runner).update(asked)
        return runner

    @property
    def resumes_latest(self) -> bool:
        """Whether the run resumes without a file to resume from."""
        return self._resume and self._load_from is None

    def load_or_resume(self) -> None:
        """Resume from the latest whole checkpoint if no file is given.

        A training removes what a killed process was writing. The lock keeps
        other trainings out of the work directory; the main process has it.

        Raises:
            CheckpointError: if there are checkpoints and none can be read.
        """
        if self.work_dir_lock is not None:
            for part in Path(self.work_dir).glob('*.pth.part'):
                part.unlink()
        if self.resumes_latest:
            found: list[Any] = [None]
            if is_main_process():
                length = len(self.train_dataloader)
                found = [latest_checkpoint(self.work_dir, length, self.logger)]
            broadcast_object_list(found)
            self._load_from: Any = found[0]
            # Otherwise mmengine would follow the file last_checkpoint.
            self._resume: Any = found[0] is not None
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume as mmengine does; keep this run's settings if asked to.

        After a change, and for an epoch that begins again, the learning
        rates, the other settings of the optimizer and the schedules are
        those of this run, at the step of the checkpoint.
        """
        wrapper: Any = self.optim_wrapper
        own = [
            {k: v for k, v in group.items() if k != 'params'}
            for group in wrapper.param_groups
        ]
        schedulers: Any = self.param_schedulers or []
        states = [copy.copy(vars(scheduler)) for scheduler in schedulers]
        try:
            super().resume(filename, *args, **kwargs)
        except (SimimError, OSError):
            raise
        except Exception as error:
            if 'parameter group' not in str(error):
                raise broken_state(filename, repr(error)) from error
            raise CheckpointError(
                f'The optimizer of {filename} has other parameters than that '
                'of this run; start a new run with --pretrained FILE.'
            ) from error
        if not (self._renewed or self._restarts):
            return
        before = wrapper.param_groups[0]['lr']
        for group, settings in zip(wrapper.param_groups, own, strict=True):
            group.update(settings)
        for scheduler, state in zip(schedulers, states, strict=True):
            vars(scheduler).clear()
            vars(scheduler).update(state)
        replay(schedulers, self.iter, len(self.train_dataloader))
        self.logger.info(
            f'The schedules are recomputed over {self.max_iters} steps: after '
            f'step {self.iter} the learning rate is '
            f'{wrapper.param_groups[0]["lr"]:.4g} (it was {before:.4g}).'
        )

    @property
    def _restarts(self) -> bool:
        return getattr(self.train_loop, 'restart_epoch', False)

    def load_checkpoint(self, filename: str, *_: Any, **__: Any) -> dict:
        """Load weights from any known format, by allow-list.

        To resume, the file must hold the whole state of the same run.
        Otherwise it must hold every part of the model; parts that the model
        lacks are dropped.

        Raises:
            CheckpointError: if the file is unsafe, broken or does not fit.
        """
        checkpoint = read_checkpoint(filename)
        averaging = [h for h in self.hooks if isinstance(h, EMAHook)]
        for hook in self.hooks:
            if self._resume or hook not in averaging:
                hook.after_load_checkpoint(self, checkpoint)
        if self._resume:
            self._load_state(checkpoint, filename)
        else:
            model = unwrapped(self.model)
            load_weights(model, filename, checkpoint)
            # An average starts from these weights. In a file its hook finds
            # them as state_dict only, which other libraries do not write.
            loaded = dict(state_dict=model.state_dict())
            for average in averaging:
                average.after_load_checkpoint(self, loaded)
        self._has_loaded = True
        return checkpoint

    def _load_state(self, checkpoint: dict, file: str) -> None:
        """Check the whole state of the same run, and load its weights.

        Raises:
            CheckpointError: if the file lacks it, or is of another run.
        """
        model, state = unwrapped(self.model), checkpoint.get('state_dict', {})
        if not isinstance(state, dict):
            raise broken_state(file, 'state_dict')
        found = self._list_changes(checkpoint.get('meta'), file)
        check_fit(model.state_dict(), state, file)
        if not {'meta', 'optimizer'} <= checkpoint.keys():
            raise CheckpointError(
                f'The checkpoint {file} holds weights but no state of a run; '
                'start a new run from it by --pretrained.'
            )
        check_state(checkpoint, file)
        meta = checkpoint['meta']
        # mmengine would run this text as Python but never writes it.
        meta.pop('config', None)
        if isinstance(self.train_loop, ExactEpochLoop):
            self.train_loop.restore(meta, file)
        else:
            self._compare_images(meta, file)
        self._judge(found, meta, file)
        self._renumber(meta)
        same = not self._renewed
        check_optimizer(self.optim_wrapper, checkpoint, file, same)
        self._check_schedules(checkpoint, file)
        model.load_state_dict(state)
        if hasattr(model, 'backbone'):
            model.backbone.loaded_family = meta.get(FAMILY)
        self.logger.info(f'Loaded the checkpoint {file!r}')

    def _check_schedules(self, checkpoint: dict, file: str) -> None:
        """Refuse a file that lacks the state of a schedule to go on with."""
        own = self.param_schedulers
        if isinstance(own, list) and not (self._renewed or self._restarts):
            check_schedules(own, checkpoint.get('param_schedulers'), file)

    @cached_property
    def _images(self) -> dict[str, Any]:
        """Processes, number and names of the images of a stock loop."""
        dataset: Any = self.train_dataloader.dataset
        count = len(dataset) if hasattr(dataset, '__len__') else None
        return dict(
            processes=self.world_size,
            images=count,
            names=fingerprint_of(dataset),
        )

    def _compare_images(self, meta: dict, file: str) -> None:
        """Refuse other images or processes than those of a checkpoint.

        Raises:
            CheckpointError: unless ``accept_changes`` is set.
        """
        before, now = meta.get('layout'), self._images
        if not isinstance(before, dict) or not before.get('names'):
            self.logger.info(
                f'{file} does not say which images its run had; they are not '
                'compared.'
            )
            return
        if self.accept_changes:
            self._renewed = before != now
            return
        count = before.get('processes', self.world_size)
        if count != self.world_size:
            raise CheckpointError(
                f'The run of {file} had {count} processes and this one has '
                f'{self.world_size}; start as many, or add --accept-changes '
                f'to go on with these; see {Trouble.CHANGED}.'
            )
        if dict(before, processes=count) != now:
            raise CheckpointError(
                f'The run of {file} had other images: {before.get("images")}, '
                f'and this one has {now["images"]}, whose names, order, '
                'labels or boxes differ; give it the same, or add '
                f'--accept-changes to go on with these; see {Trouble.CHANGED}.'
            )

    def _renumber(self, meta: dict) -> None:
        """Count the steps of a changed run in epochs of their new length.

        A stock loop of epochs begins an epoch anew.
        """
        loop = self.train_loop
        whole = isinstance(loop, EpochBasedTrainLoop)
        if self._renewed and whole and not isinstance(loop, ExactEpochLoop):
            meta['iter'] = meta['epoch'] * len(self.train_dataloader)

    def _list_changes(self, meta: Any, file: str) -> list[Change]:
        """Log the settings that differ from those of a checkpoint."""
        text = meta.get('cfg') if isinstance(meta, dict) else None
        try:
            found = changes(str(text), self.cfg.pretty_text)
        except ValueError:
            self.logger.info(f'{file} has no config to compare with this one.')
            return []
        if self.world_size == 1 or not depends_on_sync_bn(self.model):
            found = [
                change._replace(kind=Kind.FREE)
                if change.key == 'sync_bn'
                else change
                for change in found
            ]
        if found:
            listing = '\n'.join(f'  {change}' for change in found)
            self.logger.warning(f'Changed since {file}:\n{listing}')
        return found

    def _judge(self, found: list[Change], meta: dict, file: str) -> None:
        """Refuse changes that were not asked for, or have no effect.

        Raises:
            CheckpointError: if there is one.
        """
        of = {kind: [c for c in found if c.kind is kind] for kind in Kind}
        if of[Kind.FIXED]:
            raise CheckpointError(
                f'{some(of[Kind.FIXED])} cannot take effect in the run of '
                f'{file}, which has begun; set the same as before, or start '
                'a new run with --pretrained FILE.'
            )
        other = of[Kind.COURSE] + ([] if self._restarts else of[Kind.LAYOUT])
        if other and not self.accept_changes:
            raise CheckpointError(
                f'{some(other)} would change the course of the run of {file}; '
                'set the same as before, or add --accept-changes to go on '
                f'with the new settings; see {Trouble.CHANGED}.'
            )
        if of[Kind.LENGTH]:
            self._judge_length(of[Kind.LENGTH], meta, file)
        if other or of[Kind.LENGTH]:
            self._renewed = True

    def _judge_length(
        self, found: list[Change], meta: dict, file: str
    ) -> None:
        if not self.extend:
            raise CheckpointError(
                f'{some(found)} changes the length of the run of {file}; set '
                'the same as before, or add --extend to recompute the '
                f'schedules over the new length; see {Trouble.CHANGED}.'
            )
        for change in found:
            _, _, unit = change.key.partition('.max_')  # epochs, iters or ''
            done = meta.get(unit.rstrip('s'))
            if unit and change.new <= done:
                raise CheckpointError(
                    f'{change} is too short: the run of {file} has done '
                    f'{done} {unit}; set more.'
                )
            ends = fixed_ends(self.cfg.pretty_text, change.old)
            if unit and ends:
                raise CheckpointError(
                    f'{ends[0]}={change.old} ends the schedule with the old '
                    f'length, {change}; set it to the new length, too.'
                )

    def _family(self) -> dict[str, str]:
        """Return the family of a trained task's encoder for ``meta``.

        A pretraining makes an encoder of its own method.
        """
        model = unwrapped(self.model)
        backbone = getattr(model, 'backbone', None)
        family = getattr(backbone, 'loaded_family', None)
        if isinstance(model, BaseSelfSupervisor) or family is None:
            return {}
        return {FAMILY: family}

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        """Write to ``NAME.pth.part``, sync it to the disk and rename it.

        A checkpoint of an epoch or iteration replaces those of stops.

        Raises:
            SimimError: if another run has taken the work directory over.
        """
        if self.work_dir_lock is not None:
            self.work_dir_lock.check()
        loop = self.train_loop
        exact = isinstance(loop, ExactEpochLoop)
        layout = loop.layout() if exact else self._images
        kwargs['meta'] = dict(
            kwargs.get('meta') or {},
            layout=layout,
            moved=moved_parameters(self.optim_wrapper),
            **self._family(),
        )
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
