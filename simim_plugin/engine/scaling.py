"""Scale the learning rate to the images of an optimizer step."""

from __future__ import annotations

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from .loop import accumulative_counts


class ScalingMixin(Runner):
    """Count gradient accumulation in ``auto_scale_lr``."""

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
        # The log shows this value as base_lr; mmengine does not scale it.
        settings = getattr(optim_wrapper, 'base_param_settings', None)
        if settings is not None:
            settings['lr'] *= lr / before
        batch = self.train_dataloader.batch_size
        if batch is None:  # a batch sampler has its own
            return
        self.logger.info(
            f'The learning rate is {lr:.4g} for optimizer steps of '
            f'{self.world_size * batch * accumulated} images '
            f'({self.world_size} processes x {batch} x {accumulated} '
            'accumulated).'
        )
