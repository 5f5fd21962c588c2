"""mmengine's Runner, with four things that it lacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.dist import master_only
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..checkpoint import check_fit, read_checkpoint
from ..errors import SimimError


@RUNNERS.register_module()
class SiameseIMRunner(Runner):
    """A Runner that

    - counts gradient accumulation in ``auto_scale_lr``,
    - runs several processes on CPUs,
    - reads checkpoints without unpickling, and refuses a partial match,
    - leaves no half-written checkpoint behind.

    Chosen by ``runner_type`` in the config, which every training script of
    OpenMMLab looks up in mmengine's own registry.
    """

    def scale_lr(
        self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None
    ) -> None:
        """Scale the lr by processes x batch x accumulation / base batch."""
        accumulated = optim_wrapper._accumulative_counts
        if auto_scale_lr and auto_scale_lr.get('enable', False):
            base = auto_scale_lr['base_batch_size'] / accumulated
            auto_scale_lr = dict(auto_scale_lr, base_batch_size=base)
        super().scale_lr(optim_wrapper, auto_scale_lr)
        batch = self._train_dataloader['batch_size']
        lr = max(group['lr'] for group in optim_wrapper.param_groups)
        self.logger.info(
            f'The learning rate is {lr:.4g} for optimizer steps of '
            f'{self.world_size * batch * accumulated} images '
            f'({self.world_size} processes x {batch} x {accumulated} '
            'accumulated).'
        )

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Refuse a data set that does not fill one batch.

        Raises:
            SimimError: else the run would end at once and look finished.
        """
        loop = super().build_train_loop(loop)
        if len(loop.dataloader) == 0:
            raise SimimError(
                f'The training set has {len(loop.dataloader.dataset)} images, '
                f'too few for one batch of {loop.dataloader.batch_size} in '
                f'each of {self.world_size} processes; lower '
                'train_dataloader.batch_size.'
            )
        return loop

    def setup_env(self, env_cfg: dict) -> None:
        """Start gloo where there is no GPU: mmengine wants one for it."""
        if (
            self.distributed
            and not torch.cuda.is_available()
            and not torch.distributed.is_initialized()
        ):
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

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = True,
        **kwargs: Any,
    ) -> dict:
        """Load weights by allow-list; all of them must fit.

        Raises:
            CheckpointError: if the file is unsafe, broken or does not fit.
        """
        checkpoint = read_checkpoint(filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        wrapped = is_model_wrapper(self.model)
        model = self.model.module if wrapped else self.model
        check_fit(model, checkpoint['state_dict'], filename)
        model.load_state_dict(checkpoint['state_dict'])
        self._has_loaded = True
        self.logger.info(f'Loaded the checkpoint {filename}')
        return checkpoint

    @master_only
    def dump_config(self) -> None:
        """Write the resolved config to ``config.py`` in the work directory.

        Not under its own name: mim would find the config twice.
        """
        self.cfg.dump(Path(self.work_dir, 'config.py'))

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, **kwargs: Any
    ) -> None:
        """Write beside the final name and rename when complete."""
        part = Path(out_dir, f'{filename}.part')
        try:
            super().save_checkpoint(out_dir, part.name, *args, **kwargs)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        os.replace(part, Path(out_dir, filename))
