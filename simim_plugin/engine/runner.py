"""mmengine's Runner, with what it lacks for long runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.dist import (
    broadcast_object_list,
    is_main_process,
    master_only,
)
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import (
    CheckpointError,
    check_fit,
    load_weights,
    read_checkpoint,
)
from ..errors import SimimError
from ..files import complete_file
from .checkpointing import (
    BranchHook,
    drop_unfinished,
    latest_checkpoint,
    remove_stop_files,
    sync,
)
from .faults import explained
from .loop import ExactEpochLoop, accumulative_counts
from .stopping import StopHook, noted_signals, outlive_stop
from .unwrapping import unwrapped


@RUNNERS.register_module()
class SiameseIMRunner(Runner):
    """A Runner that

    - counts gradient accumulation in ``auto_scale_lr``,
    - runs several processes on CPUs,
    - reads checkpoints without unpickling, and refuses a partial match,
    - leaves no half-written checkpoint behind, and resumes from the last
      whole one,
    - stops on SIGTERM and SIGUSR1 with the state of the step under way,
    - ends without waiting for its loaders' workers,
    - says in a sentence that another process of the run was killed.

    Chosen by ``runner_type`` in the config, which every training script of
    OpenMMLab looks up in mmengine's own registry.
    """

    def scale_lr(
        self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None
    ) -> None:
        """Scale the lr by processes x batch x accumulation / base batch."""
        accumulated = accumulative_counts(optim_wrapper)
        if auto_scale_lr and auto_scale_lr.get('enable', False):
            base = auto_scale_lr['base_batch_size'] / accumulated
            auto_scale_lr = dict(auto_scale_lr, base_batch_size=base)
        groups = optim_wrapper.optimizer.param_groups
        before = max(group['lr'] for group in groups)
        super().scale_lr(optim_wrapper, auto_scale_lr)
        lr = max(group['lr'] for group in groups)
        # What the log calls base_lr, which mmengine does not scale.
        settings = getattr(optim_wrapper, 'base_param_settings', None)
        if settings is not None:
            settings['lr'] *= lr / before
        batch = self._train_dataloader['batch_size']
        self.logger.info(
            f'The learning rate is {lr:.4g} for optimizer steps of '
            f'{self.world_size * batch * accumulated} images '
            f'({self.world_size} processes x {batch} x {accumulated} '
            'accumulated).'
        )

    def train(self) -> nn.Module:
        """Train to the end, or until a signal.

        Raises:
            SimimError: if another process that the run needs was killed.
            SystemExit: after a signal; see :class:`StopHook`.
        """
        with self._ending_workers(), noted_signals() as noted, explained():
            self.register_hook(StopHook(noted))
            self.register_hook(BranchHook(self._asks_for_latest()))
            return super().train()

    def test(self) -> dict:
        """Test as mmengine does."""
        with self._ending_workers():
            return super().test()

    @contextmanager
    def _ending_workers(self) -> Iterator[None]:
        """End persistent workers with the loop that they serve.

        At the end of the program torch waits 5 s for each of those that
        serve pinned memory, without a word to them.
        """
        try:
            yield
        finally:
            for loop in (self._train_loop, self._val_loop, self._test_loop):
                for loader in getattr(loop, '__dict__', {}).values():
                    iterator: Any = getattr(loader, '_iterator', None)
                    if isinstance(loader, DataLoader) and iterator is not None:
                        iterator._shutdown_workers()
                        loader._iterator = None

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """mmengine's, whose workers outlive the signals to stop."""
        loader = Runner.build_dataloader(*args, **kwargs)
        loader.worker_init_fn = partial(outlive_stop, loader.worker_init_fn)
        return loader

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Refuse a data set that does not fill one optimizer step.

        Raises:
            SimimError: else the run would end at once and look finished.
        """
        loop = super().build_train_loop(loop)
        if len(loop.dataloader) == 0:
            raise SimimError(
                f'The training set has {len(loop.dataloader.dataset)} images, '
                f'too few for one step of {self.world_size} processes x '
                f'{loop.dataloader.batch_size} x '
                f'{accumulative_counts(self.optim_wrapper)} accumulated; '
                'lower train_dataloader.batch_size.'
            )
        return loop

    def setup_env(self, env_cfg: dict) -> None:
        """Start gloo where there is no GPU: mmengine wants one for it.

        Raises:
            SimimError: if the launcher has not numbered the processes.
        """
        if (
            self.distributed
            and not torch.cuda.is_available()
            and not torch.distributed.is_initialized()
        ):
            if 'RANK' not in os.environ:
                raise SimimError(
                    f'Without a GPU --launcher {self.launcher} needs RANK, '
                    'WORLD_SIZE and MASTER_ADDR in the environment; start '
                    'the processes by tools/dist_train.sh.'
                )
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(
        self, model_wrapper_cfg: dict | None, model: nn.Module
    ) -> nn.Module:
        """Wrap for several processes, without device ids on a CPU.

        ``sync_bn`` is for GPUs: on a CPU the model's own BatchNorm already
        spans the processes.
        """
        if self.distributed and not torch.cuda.is_available():
            return MMDistributedDataParallel(model, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

    def load_or_resume(self) -> None:
        """Resume, if asked without a file, from the last whole checkpoint.

        Raises:
            CheckpointError: if there are some and none can be read.
        """
        if self._asks_for_latest():
            found: list[Any] = [None]
            if is_main_process():
                drop_unfinished(self.work_dir)
                length = len(self.train_dataloader)
                found = [latest_checkpoint(self.work_dir, length, self.logger)]
            broadcast_object_list(found)
            self._load_from: Any = found[0]
            # Else mmengine would follow the file last_checkpoint.
            self._resume: Any = found[0] is not None
        super().load_or_resume()

    def _asks_for_latest(self) -> bool:
        return self._resume and self._load_from is None

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'default',
    ) -> None:
        """Resume as mmengine does; schedules of an epoch's new start move.

        Steps of another size have another number of them in an epoch, and
        another learning rate, which the checkpoint does not know.
        """
        restart = getattr(self.train_loop, 'restart_epoch', False)
        super().resume(
            filename,
            resume_optimizer,
            resume_param_scheduler and not restart,
            map_location,
        )
        if restart:
            for scheduler in self.param_schedulers or ():
                scheduler.last_step = scheduler._global_step = self.iter - 1
                scheduler.step()

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = True,
        **kwargs: Any,
    ) -> dict:
        """Load weights by allow-list, from any format that we know.

        To resume, the file must be the whole state of the same run; else
        every part of the model must be in it, parts that the model lacks
        are dropped.

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
            # mmengine would run this text as Python; it never writes it.
            checkpoint['meta'].pop('config', None)
            if isinstance(self.train_loop, ExactEpochLoop):
                self.train_loop.take_up(checkpoint['meta'], filename)
            model.load_state_dict(state)
            self.logger.info(f'Loaded the checkpoint {filename}')
        else:
            load_weights(model, filename, checkpoint)
        self._has_loaded = True
        return checkpoint

    @master_only
    def dump_config(self) -> None:
        """Write the resolved config to ``config.py`` in the work directory.

        Not under its own name: mim would find the config twice.
        """
        self.cfg.dump(Path(self.work_dir, 'config.py'))

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        *args: Any,
        meta: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Write beside the final name, and rename when on the disk."""
        meta = dict(meta or {})
        if isinstance(self.train_loop, ExactEpochLoop):
            meta['layout'] = self.train_loop.layout()
        file = Path(out_dir, filename)
        with complete_file(file) as part:
            super().save_checkpoint(
                out_dir, part.name, *args, meta=meta, **kwargs
            )
            sync(part)
        sync(file.parent)
        remove_stop_files(file)
