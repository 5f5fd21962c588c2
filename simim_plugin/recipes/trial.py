"""One training step of a config: does it run, how long, how much memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS, DefaultScope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from ..environment import resident_peak
from ..errors import SimimError, Trouble
from .machine import GIB


class Trial(NamedTuple):
    """The time and the memory of one step.

    Args:
        seconds (float): of a micro-step, with loading its images.
        work (float): the processor time of all threads in it, seconds, which
            other jobs of the machine do not change.
        memory (float): peak, GiB: of the GPU, else of the process.
        batch (int): images of the micro-step.
    """

    seconds: float
    memory: float
    batch: int
    work: float = 0.0


def try_step(file: Path, steps: int = 2) -> Trial:
    """Train some micro-steps of a config, and keep nothing.

    Weights stay as the model is made, since they change no time.

    Args:
        file (Path): the config.
        steps (int): micro-steps; the fastest after the first counts.
            Defaults to 2.

    Raises:
        torch.cuda.OutOfMemoryError: if a GPU is too small for the batch.
        SimimError: for wrong settings or data.
    """
    config = Config.fromfile(file)
    import_modules_from_strings(**config.custom_imports)
    loader = config.train_dataloader
    loader.update(num_workers=0, persistent_workers=False)
    if loader.sampler.type == 'SeededSampler':  # needs its loop
        loader.sampler.type = 'DefaultSampler'
    with tempfile.TemporaryDirectory() as folder:
        config.work_dir, config.log_level = folder, 'ERROR'
        config.load_from, config.visualizer = None, None
        scope = config.get('default_scope')
        with DefaultScope.overwrite_default_scope(scope), _alone():
            runner = RUNNERS.get('SiameseIMRunner').from_cfg(config)
            return _timed(runner, runner.cfg, steps)


@contextmanager
def _alone() -> Iterator[None]:
    """Forget the Runner's log and visualiser, which the next would meet."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.visualization import Visualizer

    kinds: tuple[Any, ...] = (MMLogger, MessageHub, Visualizer)
    before = [dict(kind._instance_dict) for kind in kinds]
    try:
        yield
    finally:
        for kind, instances in zip(kinds, before, strict=True):
            kind._instance_dict.clear()
            kind._instance_dict.update(instances)


def _timed(runner: Any, config: Config, steps: int) -> Trial:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    settings = config.train_dataloader
    loader = Runner.build_dataloader(settings, seed=0)
    if len(loader) == 0:
        raise SimimError(
            f'The training set has {len(loader.dataset)} pictures, too few '
            f'for one batch of {loader.batch_size}; lower --batch-size; see '
            f'{Trouble.TOO_FEW_IMAGES}.'
        )
    data = iter(cycle(loader))
    wrapper = runner.build_optim_wrapper(config.optim_wrapper)
    wrapper.initialize_count_status(runner.model, 0, steps)
    runner.model.train()
    seconds, work = [], []
    for _ in range(steps):
        start, begun = time.perf_counter(), time.process_time()
        runner.model.train_step(next(data), optim_wrapper=wrapper)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        work.append(time.process_time() - begun)
    fastest, least = (min(times[1:] or times) for times in (seconds, work))
    return Trial(fastest, _peak() / GIB, settings.batch_size, least)


def _peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resident_peak()
