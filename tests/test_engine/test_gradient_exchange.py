"""Two processes exchange gradients once per optimizer step."""

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from simim_plugin.models import SiameseIM

from ..test_models.helpers import small_config
from ..training_processes import free_port, run_two
from .training import make_runner


class CountExchanges(Hook):
    """Count the buckets of gradients that DDP exchanges in each step."""

    def __init__(self):
        self.counts = []

    def before_train(self, runner):
        def exchange(state, bucket):
            self.counts[-1] += 1
            return default_hooks.allreduce_hook(state, bucket)

        runner.model.register_comm_hook(None, exchange)

    def before_train_iter(self, runner, *_, **__):
        self.counts.append(0)


def accumulate(rank, port, folder):
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
    )
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    hook = CountExchanges()
    runner = make_runner(
        Path(folder) / 'run',
        [hook],
        epochs=2,
        optim_wrapper=dict(accumulative_counts=3),
        launcher='pytorch',
    )
    assert runner.model.gradient_as_bucket_view
    runner.train()
    Path(folder, f'{rank}.json').write_text(json.dumps(hook.counts))
    torch.distributed.barrier()
    os._exit(0)  # torch 2.11 can deadlock when it destroys the group


class Spare(SiameseIM):
    """A model with a parameter that no loss uses."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.spare = torch.nn.Parameter(torch.zeros(()))


def static(rank, port, folder):
    os.environ.update(
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
    )
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    settings = small_config()
    del settings['type']
    runner = make_runner(
        Path(folder) / 'run',
        model=Spare(**settings),
        wrapper=dict(static_graph=True),
        launcher='pytorch',
    )
    assert runner.model.static_graph and runner.model.gradient_as_bucket_view
    runner.train()
    Path(folder, f'{rank}.json').write_text(str(runner.iter))
    torch.distributed.barrier()
    os._exit(0)


@pytest.mark.slow
def test_a_static_graph_needs_no_search_for_unused_parameters(tmp_path):
    run_two(static, free_port(), str(tmp_path))
    assert {Path(tmp_path, f'{rank}.json').read_text() for rank in (0, 1)} == {
        '3'
    }


@pytest.mark.slow
def test_accumulated_micro_steps_exchange_no_gradient(tmp_path):
    run_two(accumulate, free_port(), str(tmp_path))
    for rank in (0, 1):
        counts = json.loads(Path(tmp_path, f'{rank}.json').read_text())
        assert len(counts) == 6  # 2 epochs of 24 images in batches of 2 x 4
        for step, count in enumerate(counts):
            assert (count > 0) == (step % 3 == 2), counts
