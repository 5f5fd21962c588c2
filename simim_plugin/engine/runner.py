"""mmengine's Runner for long runs that may be interrupted."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size, master_only
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..config_files import write_plainly
from ..datasets.image_set import asking_for_window, image_loaders
from ..errors import SimimError, Trouble
from ..pictures import check_measured
from ..pictures.listing import keeping_lists
from ..runs.faults import explain_lost_processes
from ..runs.finite_loss import FiniteLoss
from ..runs.history import BoundedHistory
from ..runs.late_figures import LateFiguresHook
from ..runs.lock import hold_work_dir, is_held
from ..runs.memory import explain_full_memory
from ..runs.open_files import explain_open_files
from ..runs.processes import ProcessMixin
from ..runs.stopping import StopHook, record_stop_signals
from ..runs.terminal import ShortTerminal, noted_notices, silent_stderr
from ..settings import (
    apply_img_size,
    changed_too_late,
    check_settings,
    fit_channels,
)
from .checkpointing import BranchHook
from .compiling import compile_parts
from .loop import accumulative_counts
from .resuming import CheckpointMixin
from .scaling import ScalingMixin
from .sharding import ShardingMixin
from .summary import SummaryHook
from .unwrapping import unwrapped


@RUNNERS.register_module()
class SiameseIMRunner(
    ScalingMixin, ShardingMixin, ProcessMixin, CheckpointMixin
):
    """A Runner for long runs that may be interrupted.

    - ``scaling``: ``auto_scale_lr`` counts gradient accumulation.
    - ``resuming``: checkpoints are read without unpickling, must match the
      model and are written whole; ``--resume`` finds the latest and refuses
      another course.
    - ``runs``: one run per work directory; signals end a run and save its
      state; several processes run on CPUs; one sentence reports a process
      that was killed or is frozen; loader workers end with the run.

    ``runner_type`` in the config selects it from mmengine's own registry,
    which every training script of OpenMMLab reads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Check every setting first; the arguments are mmengine's.

        Raises:
            SimimError: for a wrong setting; see docs/settings.md.
        """
        given = signature(Runner).bind(*args, **kwargs).arguments
        config = given.pop('cfg', None) or {}
        left_out = fit_channels({**config, **given})
        fit_channels(config)
        text = getattr(config, 'text', '')
        warnings = check_settings({**config, **given}, text)
        if isinstance(config, Config):
            warnings += changed_too_late(config)
            write_plainly(config)
        with noted_notices():
            super().__init__(*args, **kwargs)
        for warning in warnings:
            self.logger.warning(warning)
        if left_out:
            self.logger.info(
                'Left out, since they need images of three channels: '
                f'{", ".join(left_out)}.'
            )

    @classmethod
    def from_cfg(cls, cfg: Config) -> SiameseIMRunner:
        """Build the Runner of a config, with images of its ``img_size``.

        Raises:
            SimimError: as :func:`apply_img_size` and the constructor.
        """
        cfg = copy.deepcopy(cfg)
        apply_img_size(cfg)
        return super().from_cfg(cfg)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register as mmengine does; the figures of steps are read late."""
        late = dict(runtime_info=LateFiguresHook())
        super().register_default_hooks({**late, **(hooks or {})})

    def _log_env(self, env_cfg: dict) -> None:
        # mmengine asks the shell for a compiler, which nobody needs here.
        with silent_stderr():
            super()._log_env(env_cfg)

    def train(self) -> nn.Module:
        """Train to the end, or until a signal.

        Raises:
            SimimError: if another process that the run needs was killed, or
                another run trains in the work directory.
            SystemExit: after a signal; see :class:`StopHook`.
        """
        with (
            noted_notices(),
            self._keeping_lists(),
            hold_work_dir(self.work_dir) as self.work_dir_lock,
            self.ending_workers(),
            self.peers.watching(),
            record_stop_signals() as received,
            explain_lost_processes(),
            explain_open_files(),
            explain_full_memory(),
        ):
            self.dump_config()
            self.register_hook(StopHook(received))
            self.register_hook(BoundedHistory())
            self.register_hook(FiniteLoss())
            self.register_hook(BranchHook(self.resumes_latest))
            self.register_hook(SummaryHook())
            return super().train()

    def _maybe_compile(self, target: str) -> None:
        # mmengine compiles a whole step, whose graph breaks at data samples,
        # hooks and logged figures.
        options = self.cfg.get('compile')
        if not (isinstance(options, dict) and 'modules' in options):
            super()._maybe_compile(target)
            return
        names = compile_parts(unwrapped(self.model), **options)
        self.logger.info(
            f'Compiled when they first run: {", ".join(names)}; the first '
            'steps are slow.'
        )

    def test(self) -> dict:
        """Test as mmengine does."""
        with noted_notices(), self._keeping_lists(), self.ending_workers():
            self.register_hook(SummaryHook())
            return super().test()

    def build_logger(
        self, log_level: int | str = 'INFO', *args: Any, **kwargs: Any
    ) -> MMLogger:
        """Build mmengine's logger; its terminal is short unless DEBUG."""
        logger = super().build_logger(log_level, *args, **kwargs)
        self.terminal = ShortTerminal(logger)
        return logger

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks; once a loop begins, the terminal shows its lines."""
        super().call_hook(fn_name, **kwargs)
        if fn_name in ('before_train', 'before_val', 'before_test'):
            self.terminal.started = True

    def _keeping_lists(self) -> AbstractContextManager[None]:
        """Keep the lists of images beside the work directory."""
        folder = Path(self.work_dir).absolute().parent / '.listings'
        return keeping_lists(folder, self.relist)

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """Build a loader; refuse epochs of more images than its set has.

        Raises:
            SimimError: if ``num_batch_per_epoch`` asks for more.
        """
        loader = ProcessMixin.build_dataloader(*args, **kwargs)
        _check_epoch(loader)
        return loader

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Refuse a data set that does not fill one optimizer step.

        Raises:
            SimimError: otherwise the run would end at once, as if finished.
        """
        loop = super().build_train_loop(loop)
        if len(loop.dataloader) == 0:
            raise SimimError(
                f'The training set has {len(loop.dataloader.dataset)} images, '
                f'too few for one step of {self.world_size} processes x '
                f'{loop.dataloader.batch_size} x '
                f'{accumulative_counts(self.optim_wrapper)} accumulated; '
                'lower train_dataloader.batch_size; see '
                f'{Trouble.TOO_FEW_IMAGES}.'
            )
        self._share_window(loop.dataloader.dataset)
        return loop

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build as mmengine does; warn of custom keys without parameters."""
        if isinstance(optim_wrapper, dict):
            names = [name for name, _ in self.model.named_parameters()]
            groups = optim_wrapper.get('paramwise_cfg') or {}
            for key in groups.get('custom_keys') or ():
                if not any(key in name for name in names):
                    self.logger.warning(
                        f'optim_wrapper.paramwise_cfg.custom_keys.{key} has '
                        'no effect: no parameter has it in its name.'
                    )
        return super().build_optim_wrapper(optim_wrapper)

    def _share_window(self, dataset: Any) -> None:
        """Give the evaluations the window that the training set measured."""
        asking = [*asking_for_window([*dict(self.cfg.items()).values()])]
        measured = [load.window for load in image_loaders(dataset)]
        if not (asking and measured):
            return
        if len({*measured}) > 1:
            raise SimimError(
                "window='percentiles' of the loaders gives the training sets "
                f'different levels ({", ".join(map(str, measured))}), and '
                'the evaluations have one; set window of all loaders to two '
                'levels.'
            )
        rest = (
            *(self._val_dataloader, self._test_dataloader),
            *(self._val_loop, self._test_loop),
        )
        for loader in [*asking, *asking_for_window(rest)]:
            loader['window'] = measured[0]
        self.dump_config()

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Refuse levels that no training has measured.

        Raises:
            SimimError: if ``window`` is still 'percentiles'.
        """
        for part in asking_for_window([self._val_dataloader, loop]):
            check_measured(part['window'])
        return super().build_val_loop(loop)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Refuse levels that no training has measured.

        Raises:
            SimimError: if ``window`` is still 'percentiles'.
        """
        for part in asking_for_window([self._test_dataloader, loop]):
            check_measured(part['window'])
        return super().build_test_loop(loop)

    @master_only
    def dump_config(self) -> None:
        """Write the resolved config to ``config.py`` in the work directory.

        Under its own name, mim would find the config twice. While a run
        trains there, the config stays its own.
        """
        if self.work_dir_lock is None and is_held(self.work_dir):
            return
        self.cfg.dump(Path(self.work_dir, 'config.py'))


def _check_epoch(loader: DataLoader) -> None:
    """Compare the batches of an epoch with the images that there are."""
    dataset: Any = loader.dataset
    # MMEngine's epochs of num_batch_per_epoch hold their set as _dataset.
    whole = getattr(dataset, '__dict__', {}).get('_dataset')
    if whole is None or len(dataset) <= len(whole):
        return
    most = len(whole) // ((loader.batch_size or 1) * get_world_size())
    advice = f'set it to at most {most}, or leave it out'
    raise SimimError(
        f'num_batch_per_epoch gives an epoch {len(dataset)} images, and the '
        f'data set has {len(whole)}; {advice if most else "leave it out"}.'
    )
