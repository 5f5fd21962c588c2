"""Start processes on CPUs, and end loader workers with their run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..errors import SimimError
from .answering import PeerWatch, process_timeout
from .batch_norm import depends_on_sync_bn, spanning
from .stopping import end_at_once, outlive_stop

_DDP = 'MMDistributedDataParallel'


def together(config: Any, model: nn.Module) -> nn.Module:
    """Let BatchNorm span the processes, if ``sync_bn`` asks for it."""
    if config.get('sync_bn') is None:
        return model
    if not depends_on_sync_bn(model):
        print_log(
            'sync_bn has no effect: the model has no BatchNorm with '
            'statistics of one process; remove it.',
            logger='current',
            level=logging.WARNING,
        )
    return spanning(model)


class ProcessMixin(Runner):
    """Run several processes on CPUs; end loader workers with the run."""

    def setup_env(self, env_cfg: dict) -> None:
        """Start gloo without a GPU; mmengine needs a GPU even for gloo.

        ``dist_cfg.timeout`` holds for both.

        Raises:
            SimimError: if the launcher has not numbered the processes.
        """
        timeout = process_timeout(dict(env_cfg=env_cfg))
        self.peers = PeerWatch(timeout, end_at_once)
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
            torch.distributed.init_process_group('gloo', timeout=timeout)
        super().setup_env(env_cfg)

    def wrap_model(
        self, model_wrapper_cfg: dict | None, model: nn.Module
    ) -> nn.Module:
        """Wrap for several processes, without device ids on a CPU.

        Gradients are views of the buckets that the processes exchange, so
        none is copied. ``model_wrapper_cfg`` without another type adds
        arguments, such as ``static_graph``. ``sync_bn``, whatever its value,
        makes BatchNorm span the processes by
        :func:`~simim_plugin.runs.batch_norm.spanning`.

        Raises:
            SimimError: for another wrapper on a CPU.
        """
        if not self.distributed or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        on_gpu = torch.cuda.is_available()
        given = dict(model_wrapper_cfg or {})
        kind = given.pop('type', _DDP)
        if kind not in (_DDP, MMDistributedDataParallel):
            if not on_gpu:
                raise SimimError(
                    f'model_wrapper_cfg.type {kind} is for GPUs, and there '
                    'is none; remove it.'
                )
            return super().wrap_model(model_wrapper_cfg, model)
        settings = dict(
            device_ids=[int(os.environ['LOCAL_RANK'])] if on_gpu else None,
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get(
                'find_unused_parameters', False
            ),
            gradient_as_bucket_view=True,
        )
        model = together(self.cfg, model.to(get_device()))
        return MMDistributedDataParallel(model, **{**settings, **given})

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks, and note that this process goes on."""
        self.peers.moved()
        super().call_hook(fn_name, **kwargs)

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """Build mmengine's loader; its workers survive stop signals."""
        loader = Runner.build_dataloader(*args, **kwargs)
        loader.worker_init_fn = partial(
            outlive_stop, init=loader.worker_init_fn
        )
        return loader

    @contextmanager
    def ending_workers(self) -> Iterator[None]:
        """Shut persistent workers down on exit.

        Otherwise torch waits 5 s at the end of the program for each worker
        that serves pinned memory.
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
