"""Keep enough checkpoints, and none from beyond the start of the run."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..runs.stopping import STOP_NAME
from .resuming import numbered_checkpoints

_OUTDATED = 'outdated_ckpt_id'


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Remove the oldest checkpoint only after the newest is complete.

    mmengine removes it before, so with ``max_keep_ckpts=1`` a kill in
    between leaves none.
    """

    best_ckpt_path: Any
    best_ckpt_path_dict: dict

    def before_train(self, runner: Runner) -> None:
        """Remove the outdated checkpoint that a kill has left."""
        super().before_train(runner)
        if self.save_best is not None:
            self._forget_best_of_others()
        if self.max_keep_ckpts > 0:
            done = runner.epoch if self.by_epoch else runner.iter
            kept = self.keep_ckpt_ids
            while kept and kept[-1] > done:  # the epoch is restarted
                kept.pop()
            outdated = runner.message_hub.runtime_info.get(_OUTDATED)
            if outdated is not None and outdated not in kept:
                remove(self._file(outdated))

    def _forget_best_of_others(self) -> None:
        """Leave the best checkpoint of another run alone.

        A checkpoint names that of the run which wrote it, and mmengine
        removes what it names, a whole folder too.
        """
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = self._own(self.best_ckpt_path)
        else:
            self.best_ckpt_path_dict = {
                name: self._own(path)
                for name, path in self.best_ckpt_path_dict.items()
            }

    def _own(self, path: Any) -> str | None:
        """Return a path if it is a file of this run, else None."""
        if not isinstance(path, str):
            return None
        ours = Path(path).parent.resolve() == Path(self.out_dir).resolve()
        return path if ours and Path(path).is_file() else None

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
    """Rename checkpoints beyond the starting point to ``NAME.stale``.

    They belong to another run, or to another branch of this one;
    ``--resume`` must not find them.

    Args:
        resumes_latest (bool): whether the run resumes from the latest
            checkpoint, so that none is newer.
    """

    priority = 'LOWEST'

    def __init__(self, resumes_latest: bool) -> None:
        self.resumes_latest = resumes_latest

    def before_train(self, runner: Runner) -> None:
        """Save a resumed run's starting point; rename those beyond."""
        restarts = getattr(runner.train_loop, 'restart_epoch', False)
        if self.resumes_latest and not restarts:
            return
        barrier()  # every process has read its checkpoint
        own = ''
        if runner._resume:
            own = STOP_NAME.format(runner.iter)
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            runner.save_checkpoint(
                runner.work_dir, own, meta=meta, by_epoch=False
            )
        _set_aside(runner, own)


@master_only
def _set_aside(runner: Runner, own: str) -> None:
    done = dict(epoch=runner.epoch, iter=runner.iter)
    names = []
    for stop, unit, number, path in numbered_checkpoints(runner.work_dir):
        if path.name != own and (stop or number > done[unit]):
            free = (f'{path}.stale{k}' for k in chain([''], count(2)))
            path.rename(next(n for n in free if not Path(n).exists()))
            names.append(path.name)
    if names:
        runner.logger.warning(
            f'Set aside in {runner.work_dir} as NAME.stale (.stale2 if that '
            'exists), because this run has not been there: '
            f'{", ".join(names)}.'
        )


@master_only
def remove(path: Path) -> None:
    """Remove a file, if it exists, in the main process."""
    path.unlink(missing_ok=True)
