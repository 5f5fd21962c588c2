"""The cost of a run's monitors beside its training step."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from ..config_files import config_path
from ..engine.collapse import feature_figures
from .timing import DEVICE, median_seconds
from .training import pretraining_step


def measure_monitors(config: str, batch: int, rounds: int) -> dict[str, float]:
    """Time a step, a measurement of CollapseMonitor, and NonFiniteGuard.

    Args:
        config (str): name of a packaged pretraining config.
        batch (int): images per step.
        rounds (int): counted runs of each.

    Returns:
        dict[str, float]: milliseconds, and shares of a step in percent, for
        the monitor at its interval in the config.
    """
    settings = Config.fromfile(config_path(config))
    (interval,) = (
        hook.interval
        for hook in settings.custom_hooks
        if hook.type == 'CollapseMonitor'
    )
    init_default_scope('mmpretrain')
    model = MODELS.build(settings.model).to(DEVICE)
    grid, dim = model.neck.grid, model.neck.embed_dims
    features = torch.randn(2, batch, grid[0] * grid[1], dim, device=DEVICE)
    statistics = [
        buffer
        for part in model.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        for buffer in part.buffers()
    ]
    kept = [buffer.clone() for buffer in statistics]
    seconds = median_seconds(
        {
            'step': pretraining_step(config, batch, bf16=False),
            'CollapseMonitor': lambda: feature_figures(*features),
            'NonFiniteGuard': lambda: torch._foreach_copy_(kept, statistics),
        },
        rounds,
    )
    figures: dict[str, float] = {
        f'{name}: ms': 1e3 * value for name, value in seconds.items()
    }
    for name, every in (('CollapseMonitor', interval), ('NonFiniteGuard', 1)):
        share = 100 * seconds[name] / seconds['step'] / every
        figures[f'{name} every {every} steps, % of a step'] = share
    return figures
