"""Two processes exchange gradients once per optimizer step."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from simim_plugin.models import SiameseIM

from ..test_models.helpers import small_config
from ..training_processes import in_two
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


def accumulate(folder) -> list[int]:
    """Train in one of two processes; count the exchanges of each step."""
    init_default_scope('mmpretrain')
    hook = CountExchanges()
    runner = make_runner(
        folder,
        [hook],
        epochs=2,
        optim_wrapper=dict(accumulative_counts=3),
        launcher='pytorch',
    )
    assert runner.model.gradient_as_bucket_view
    runner.train()
    return hook.counts


class Spare(SiameseIM):
    """A model with a parameter that no loss uses."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.spare = torch.nn.Parameter(torch.zeros(()))


def static(folder) -> int:
    """Train in one of two processes; count the steps."""
    init_default_scope('mmpretrain')
    settings = small_config()
    del settings['type']
    runner = make_runner(
        folder,
        model=Spare(**settings),
        wrapper=dict(static_graph=True),
        launcher='pytorch',
    )
    assert runner.model.static_graph and runner.model.gradient_as_bucket_view
    runner.train()
    return runner.iter


@pytest.mark.slow
def test_a_static_graph_needs_no_search_for_unused_parameters(tmp_path):
    assert in_two(static, tmp_path / 'run') == [3, 3]


@pytest.mark.slow
def test_accumulated_micro_steps_exchange_no_gradient(tmp_path):
    for counts in in_two(accumulate, tmp_path / 'run'):
        assert len(counts) == 6  # 2 epochs of 24 images in batches of 2 x 4
        for step, count in enumerate(counts):
            assert (count > 0) == (step % 3 == 2), counts
