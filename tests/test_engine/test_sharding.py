"""Two processes that share a model's weights equal one process."""

import os
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from mmengine.dist import barrier, get_rank
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope

from simim_plugin.checkpoint import read_checkpoint
from simim_plugin.engine.sharding import gathered

from ..test_models.helpers import small_batch, small_model
from ..training_processes import in_two
from .training import GUARD, QUICK_COLLAPSE_MONITOR, Pairs, make_runner

fsdp = pytest.importorskip('torch.distributed.fsdp')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(
            getattr(fsdp, 'FSDPModule', None), 'set_reshard_after_forward'
        ),
        reason='FullyShard needs torch 2.8',
    ),
]

SHARED = dict(type='FullyShard')


class Losses(Hook):
    """Note the loss of each iteration of this process."""

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, *_, outputs=None, **__):
        self.values.append(float(outputs['loss']))


def wide_model(again=False):
    """Build a model in float64; preprocessors give float32.

    With shards, the backward pass computes blocks again.
    """
    model = small_model().double()
    model.backbone.with_cp = again
    for backbone in (model.backbone, model.target['backbone']):
        backbone.patch_embed.register_forward_pre_hook(
            lambda _, images: images[0].double()
        )
    return model


def run(folder, batch, wrapper=None, resume=None, hooks=(), **options):
    """Train in float64, with all hooks of a pretraining."""
    losses = Losses()
    runner = make_runner(
        folder,
        [QUICK_COLLAPSE_MONITOR, GUARD, losses, *hooks],
        model=wide_model(again=wrapper is not None),
        batch=batch,
        wrapper=wrapper,
        launcher='pytorch' if 'RANK' in os.environ else 'none',
        load_from=resume and str(resume),
        resume=resume is not None,
        **{'epochs': 2, **options},
    )
    runner.train()
    barrier()  # the main process has written its checkpoint
    return runner, losses.values


def held(model) -> list[float]:
    """Return the share of the elements that this process holds."""
    found = []
    for part in (model, model.target):
        numbers = [
            (p.to_local().numel(), p.numel()) for p in part.parameters()
        ]
        own, every = map(sum, zip(*numbers, strict=True))
        found.append(own / every)
    return found


def computes_alone(runner, checkpoint):
    """With gathered weights one process computes without the other."""
    plain = wide_model()
    plain.load_state_dict(checkpoint['state_dict'])
    with gathered(runner.model), torch.no_grad():
        if get_rank() == 0:
            for images in small_batch()[0]:
                found = runner.model.module.backbone(images)[0]
                assert torch.equal(found, plain.backbone(images)[0])
    assert held(runner.model.module) != [1, 1]


def exchanges(runner) -> list[int]:
    """Count whether micro-steps of an accumulated step exchange gradients."""
    model, wrapper = runner.model, runner.optim_wrapper
    wrapper._accumulative_counts, wrapper._inner_count = 3, 0
    wrapper._max_counts = -1
    batch = next(iter(runner.train_dataloader))
    found = []
    with mock.patch.object(
        torch.distributed,
        'reduce_scatter_tensor',
        side_effect=torch.distributed.reduce_scatter_tensor,
    ) as exchange:
        for _ in range(3):
            exchange.reset_mock()
            model.train_step(batch, wrapper)
            found.append(int(exchange.called))
    return found


def two_processes(folder) -> tuple[list[float], list[float]]:
    """Return the losses and the share of the elements of a process."""
    init_default_scope('mmpretrain')
    runner, losses = run(folder / 'shards', 4, SHARED)
    shares = held(runner.model.module)
    computes_alone(runner, content(folder / 'shards'))
    assert exchanges(runner) == [0, 0, 1]
    # Rank 1 sees a NaN in the third step: it is skipped, and all is saved.
    hold = dict(type='HoldBackboneHook', epochs=1)
    data = Pairs(spoiled=[21])
    run(folder / 'nan', 4, SHARED, None, [hold], dataset=data, epochs=1)
    run(folder / 'copies', 4)
    for before, after, wrapper in (
        ('shards', 'shards', SHARED),
        ('shards', 'copies', None),
        ('copies', 'shards', SHARED),
    ):
        start = folder / before / 'epoch_1.pth'
        run(folder / f'{before}-{after}', 4, wrapper, start)
    return losses, shares


class Trained(NamedTuple):
    """Runs in ``folder``, and figures of both processes and of one."""

    folder: Path
    losses: tuple[list[float], ...]
    shares: tuple[list[float], ...]
    wanted: list[float]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Runs of two processes, and one of a single process on whole batches."""
    folder = tmp_path_factory.mktemp('sharding')
    losses, shares = zip(*in_two(two_processes, folder), strict=True)
    init_default_scope('mmpretrain')
    _, wanted = run(folder / 'one', 8)
    return Trained(folder, losses, shares, wanted)


def content(folder, name='epoch_2.pth'):
    return read_checkpoint(Path(folder) / name)


def moments(checkpoint) -> dict:
    return {
        f'{number}.{name}': value
        for number, of_one in checkpoint['optimizer']['state'].items()
        for name, value in of_one.items()
    }


def distance(one, other) -> float:
    assert list(one) == list(other)
    return max(
        (
            (one[n] - other[n]).double().norm()
            / (other[n].double().norm() + 1)
        ).item()
        for n in one
    )


def test_two_processes_equal_one(trained):
    whole = content(trained.folder / 'one')
    for name in ('shards', 'copies'):
        found = content(trained.folder / name)
        assert distance(found['state_dict'], whole['state_dict']) < 1e-6
        assert distance(moments(found), moments(whole)) < 1e-6
    mean = [sum(pair) / 2 for pair in zip(*trained.losses, strict=True)]
    assert mean == pytest.approx(trained.wanted, rel=1e-6)
    assert len(trained.wanted) == 6


def test_each_process_holds_about_half(trained):
    for shares in trained.shares:
        assert all(0.45 < share < 0.55 for share in shares), shares


def test_a_checkpoint_is_that_of_one_process(trained):
    def layout(value):
        if isinstance(value, torch.Tensor):
            return type(value), value.shape, value.dtype, value.device
        if isinstance(value, dict):
            return [(key, layout(inner)) for key, inner in value.items()]
        if isinstance(value, (list, tuple)):
            return [*map(layout, value)]
        return type(value)

    shards, one = (
        content(trained.folder / 'shards'),
        content(trained.folder / 'one'),
    )
    assert shards.keys() == one.keys()
    for part in ('state_dict', 'optimizer'):
        assert layout(shards[part]) == layout(one[part])
    model = small_model().double()
    model.load_state_dict(shards['state_dict'])


def test_a_resumed_run_equals_the_whole_bit_for_bit(trained):
    whole, found = (
        content(trained.folder / 'shards'),
        content(trained.folder / 'shards-shards'),
    )
    for part in (lambda c: c['state_dict'], moments):
        one, other = part(whole), part(found)
        assert list(one) == list(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize('name', ['shards-copies', 'copies-shards'])
def test_a_run_goes_on_under_the_other_wrapper(trained, name):
    whole, found = (
        content(trained.folder / 'one'),
        content(trained.folder / name),
    )
    assert distance(found['state_dict'], whole['state_dict']) < 1e-6
    assert distance(moments(found), moments(whole)) < 1e-6


def test_a_skipped_step_is_saved_whole_and_a_held_backbone_stays(trained):
    one = content(trained.folder / 'nan/nonfinite', 'iter_3.pth')
    end = content(trained.folder / 'nan', 'epoch_1.pth')
    start = wide_model().state_dict()
    for name, value in end['state_dict'].items():
        before = one['state_dict'][name]
        assert torch.equal(before, value), name
        if name.startswith('backbone.'):
            assert torch.equal(value, start[name]), name
    assert moments(one).keys() == moments(end).keys()
