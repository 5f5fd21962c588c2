"""The Runner and its hooks, on a run of a few steps."""

import errno
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.runner import _SlicedDataset
from PIL import Image
from torch.utils.data import Subset

from simim_plugin import config_path
from simim_plugin.checkpoint import CheckpointError, read_checkpoint
from simim_plugin.datasets import ImageFolder
from simim_plugin.engine import HoldBackboneHook, SiameseIMRunner
from simim_plugin.engine.schedule import (
    WarmupCosineLR,
    cosine_decay,
    cosine_momentum,
)
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIM

from ..test_models.helpers import small_model
from .training import Pairs, smooth_picture

LR = 0.004


@pytest.fixture
def make_runner(tmp_path):
    """Build a Runner of 6 iterations of 4 images."""
    init_default_scope('mmpretrain')
    count = iter(range(100))

    def make(model=None, dataset=None, **options):
        optim_wrapper = dict(
            type='AutocastOptimWrapper',
            constructor='LayerDecayConstructor',
            optimizer=dict(type='AdamW', lr=LR, weight_decay=0.05),
            paramwise_cfg=dict(flat_decay_mult=0.0),
            clip_grad=dict(max_norm=1.0),
        )
        optim_wrapper.update(options.pop('optim_wrapper', {}))
        settings = dict(
            work_dir=str(tmp_path / 'run'),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                drop_last=True,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='collate_pairs'),
                dataset=dataset or Pairs(),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=optim_wrapper,
            param_scheduler=dict(
                type='WarmupCosineLR', convert_to_iter_based=True
            ),
            auto_scale_lr=dict(base_batch_size=64, enable=True),
            custom_hooks=[
                dict(type='MomentumHook', base_momentum=0.9),
                dict(type='ThroughputHook'),
            ],
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            log_processor=dict(window_size=1),
            default_scope='mmpretrain',
            randomness=dict(seed=0),
            experiment_name=f'{tmp_path.name}_{next(count)}',
        )
        settings.update(options)
        settings['cfg'] = Config(dict(train_dataloader=dict(batch_size=4)))
        return SiameseIMRunner(model or small_model(), **settings)

    return make


def scalars(tmp_path):
    (file,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ('accumulated', 'moved_at'), [(1, range(6)), (2, (0, 2, 4)), (3, (0, 3))]
)
def test_momentum_moves_once_per_optimizer_step(
    make_runner, monkeypatch, accumulated, moved_at
):
    runner = make_runner(optim_wrapper=dict(accumulative_counts=accumulated))
    moves, rates = [], []
    move, loss = SiameseIM.update_target, SiameseIM.loss
    monkeypatch.setattr(
        SiameseIM,
        'update_target',
        lambda self, momentum: (
            moves.append((runner.iter, momentum)),
            move(self, momentum),
        ),
    )
    monkeypatch.setattr(
        SiameseIM,
        'loss',
        lambda self, *args: (
            rates.append(runner.optim_wrapper.get_lr()['lr'][0]),
            loss(self, *args),
        )[1],
    )
    runner.train()
    assert moves[0] == (0, 0.0)  # the copy at initialisation
    assert moves[1:] == [(t, cosine_momentum(0.9, t / 6)) for t in moved_at]
    # The rate, too, moves with the optimizer; its peak is scaled by
    # processes x batch x accumulation / base batch.
    peak = LR * 4 * accumulated / 64
    for t, rate in enumerate(rates):
        start = t - t % accumulated
        decay = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * start / 6)))
        assert rate == pytest.approx(peak * decay.item(), rel=1e-6)


def test_the_log_has_every_figure(make_runner, tmp_path):
    make_runner().train()
    log = scalars(tmp_path)
    assert len(log) == 6
    for name in (
        'loss',
        'positive_term',
        'negative_term',
        'grad_norm',
        'momentum',
        'lr',
        'images_per_second',
    ):
        assert all(name in line for line in log), name
    line = log[-1]
    parts = line['positive_term'] + line['negative_term']
    assert line['loss'] == pytest.approx(parts, rel=1e-5)


def test_bf16_on_a_cpu_is_close_to_fp32_but_not_equal(make_runner, tmp_path):
    losses = {}
    for on_cpu in (False, True):
        runner = make_runner(
            optim_wrapper=dict(on_cpu=on_cpu),
            work_dir=str(tmp_path / f'{on_cpu}'),
        )
        model = runner.train()
        (file,) = (tmp_path / f'{on_cpu}').glob('*/vis_data/scalars.json')
        lines = file.read_text().splitlines()
        losses[on_cpu] = [json.loads(line)['loss'] for line in lines]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert losses[True] == pytest.approx(losses[False], rel=0.02)
    assert losses[True] != losses[False]


def test_resume_reads_our_checkpoint_by_allow_list(make_runner, tmp_path):
    first = make_runner(train_cfg=dict(by_epoch=True, max_epochs=2))
    first.train()
    file = tmp_path / 'run' / 'epoch_1.pth'
    assert read_checkpoint(file)['meta']['iter'] == 6
    again = make_runner(
        train_cfg=dict(by_epoch=True, max_epochs=2),
        resume=True,
        load_from=str(file),
    )
    again.train()
    assert again.iter == 12
    for (name, a), (_, b) in zip(
        first.model.state_dict().items(),
        again.model.state_dict().items(),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-6), name


def test_no_half_written_checkpoint_on_a_full_disk(
    make_runner, monkeypatch, tmp_path
):
    from mmengine.fileio import LocalBackend

    def fill(self, obj, filepath):
        with open(filepath, 'wb') as file:
            file.write(obj[:100])
        raise OSError(errno.ENOSPC, 'No space left on device', filepath)

    monkeypatch.setattr(LocalBackend, 'put', fill)
    with pytest.raises(OSError, match='No space'):
        make_runner().train()
    assert not list((tmp_path / 'run').glob('*.pth*'))


def test_a_checkpoint_of_another_architecture(make_runner, tmp_path):
    make_runner().train()
    file = str(tmp_path / 'run' / 'epoch_1.pth')
    other = make_runner(model=small_model(dims=32), load_from=file)
    with pytest.raises(
        CheckpointError, match=r'does not fit.*of another shape.*neck\.'
    ):
        other.train()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize('launcher', ['slurm', 'mpi', 'pytorch'])
def test_unnumbered_processes_without_a_gpu(make_runner, launcher):
    with pytest.raises(SimimError, match=rf'{launcher}.*dist_train\.sh'):
        make_runner(launcher=launcher)


def test_too_few_images_for_a_batch(make_runner):
    with pytest.raises(SimimError, match=r'has 3 images.*batch_size'):
        make_runner(dataset=Pairs(size=3)).train()


class Malicious:
    """Run ``call(*args)`` when unpickled without an allow-list."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def test_malicious_and_broken_files_are_refused(tmp_path):
    witness, file = tmp_path / 'witness', tmp_path / 'bad.pth'
    write = Malicious(open, str(witness), 'w')
    torch.save(dict(state_dict={}, meta=write), file)
    with pytest.raises(CheckpointError, match='may run code'):
        read_checkpoint(file)
    # mmengine's log history needs getattr, for which only it is allowed.
    for owner, name in ((dict, 'update'), (HistoryBuffer, '__class__')):
        torch.save(dict(meta=Malicious(getattr, owner, name)), file)
        with pytest.raises(CheckpointError, match='may run code'):
            read_checkpoint(file)
    file.write_bytes(pickle.dumps(write))
    with pytest.raises(CheckpointError, match='Cannot read'):
        read_checkpoint(file)
    assert not witness.exists()
    torch.save(small_model().state_dict(), file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match='truncated'):
        read_checkpoint(file)
    with pytest.raises(CheckpointError, match='no checkpoint file'):
        read_checkpoint(tmp_path / 'missing.pth')
    torch.save([1, 2], file)
    with pytest.raises(CheckpointError, match='holds a list'):
        read_checkpoint(file)


def test_logged_learning_rate_is_the_one_in_use(make_runner, tmp_path):
    """With several groups mmengine logs an unscaled base_lr."""
    paramwise = dict(layer_decay_rate=0.5, flat_decay_mult=0.0)
    runner = make_runner(optim_wrapper=dict(paramwise_cfg=paramwise))
    runner.train()
    scaled = LR * 4 / 64
    assert len(runner.optim_wrapper.optimizer.param_groups) > 2
    assert scalars(tmp_path)[0]['base_lr'] == pytest.approx(scaled)
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert f'The learning rate is {scaled:.4g} for' in log.read_text()


@pytest.mark.parametrize('accumulated', [1, 2])
def test_a_held_backbone_moves_after_its_epochs_only(make_runner, accumulated):
    model = small_model()
    before = [w.detach().clone() for w in model.backbone.parameters()]
    new = [w.detach().clone() for w in model.neck.parameters()]
    moved = []

    class Watch(Hook):
        priority = 'LOW'

        def after_train_epoch(self, runner):
            parts = ((before, model.backbone), (new, model.neck))
            moved.append(
                [
                    not all(map(torch.equal, old, part.parameters()))
                    for old, part in parts
                ]
            )

    runner = make_runner(
        model,
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(accumulative_counts=accumulated),
        custom_hooks=[dict(type='HoldBackboneHook', epochs=2), Watch()],
    )
    model.init_weights = lambda: None  # keep the weights above
    runner.train()
    assert moved == [[False, True], [False, True], [True, True]]


def test_a_backbone_is_held_by_iterations_where_a_loop_has_no_epochs(
    make_runner,
):
    model = small_model()
    model.init_weights = lambda: None
    before = [w.detach().clone() for w in model.backbone.parameters()]
    held = []

    class Watch(Hook):
        priority = 'LOW'

        def after_train_iter(self, runner, *_, **__):
            now = model.backbone.parameters()
            held.append(all(map(torch.equal, before, now)))

    make_runner(
        model,
        train_cfg=dict(by_epoch=False, max_iters=8),
        param_scheduler=None,
        custom_hooks=[dict(type='HoldBackboneHook', epochs=1), Watch()],
    ).train()
    assert held == 6 * [True] + 2 * [False]


def test_a_backbone_is_held_for_an_epoch_at_least():
    with pytest.raises(SimimError, match='epochs=0'):
        HoldBackboneHook(epochs=0)


def test_a_frozen_backbone_needs_no_hold(make_runner, tmp_path):
    model = small_model()
    model.backbone.requires_grad_(False)
    make_runner(
        model, custom_hooks=[dict(type='HoldBackboneHook', epochs=1)]
    ).train()
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'no effect: no weight of the backbone is tr' in log.read_text()
    assert 'from here on' not in log.read_text()


@pytest.mark.parametrize(
    ('hook', 'part'),
    [
        (dict(type='MomentumHook'), 'update_target'),
        (dict(type='HoldBackboneHook', epochs=1), 'backbone'),
    ],
)
def test_a_hook_without_its_part_is_refused(make_runner, hook, part):
    class Other(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, inputs, data_samples=None, mode='loss'):
            return dict(loss=self.layer.weight.sum())

    words = f'{hook["type"]} needs {part} of the model, which Other does'
    plain = dict(
        constructor='DefaultOptimWrapperConstructor', paramwise_cfg={}
    )
    with pytest.raises(SimimError, match=words):
        make_runner(Other(), custom_hooks=[hook], optim_wrapper=plain).train()


def test_a_config_is_written_without_yapf(make_runner, tmp_path, monkeypatch):
    """It would take seconds for each log, checkpoint and config.py."""

    def fail(*args, **kwargs):
        raise AssertionError('yapf')

    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', fail)
    runner = make_runner()
    runner.train()
    written = Config.fromfile(tmp_path / 'run' / 'config.py')
    assert written._cfg_dict == runner.cfg._cfg_dict
    assert '_format_python_code' not in written


def test_a_custom_key_without_parameters_is_a_warning(make_runner, tmp_path):
    keys = {'backbone.': dict(lr_mult=0.1), 'decodr': dict(lr_mult=0.1)}
    make_runner(
        optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys))
    ).train()
    (log,) = (tmp_path / 'run').glob('*/*.log')
    (line,) = [x for x in log.read_text().splitlines() if 'no effect' in x]
    assert 'custom_keys.decodr has no effect: no parameter' in line


def rates_of(optimizer, scheduler, steps):
    """Return the rate of each step, as a share of the base rate."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]['lr'] / LR)
        optimizer.step()
        scheduler.step()
    return rates


def test_a_schedule_counts_from_its_begin():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = WarmupCosineLR.build_iter_from_epoch(
        optimizer, begin=1, warmup=1, end=4, epoch_length=2
    )
    rates = rates_of(optimizer, scheduler, 8)
    decay = [cosine_decay(t / 4) for t in range(4)]
    assert rates == pytest.approx([1, 1, 0, 0.5, *decay])


def test_accumulation_does_not_change_a_schedule_of_epochs():
    """A step of the schedule is an epoch, not a batch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    optimizer._accumulative_counts = 4
    scheduler = WarmupCosineLR(optimizer, warmup=2, begin=0, end=6)
    rates = rates_of(optimizer, scheduler, 6)
    decay = [cosine_decay(t / 4) for t in range(4)]
    assert rates == pytest.approx([0, 0.5, *decay])


@pytest.mark.parametrize(
    ('images', 'words'),
    [(24, 'set it to at most 6, or'), (3, 'has 3; leave it out')],
)
def test_an_epoch_of_more_batches_than_images_is_refused(
    make_runner, images, words
):
    dataset = Subset(Pairs(), range(images))
    loader = dict(
        batch_size=4,
        dataset=dataset,
        collate_fn=dict(type='collate_pairs'),
        num_batch_per_epoch=7,
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    with pytest.raises(SimimError, match=f'28 images, .*{words}'):
        make_runner(train_dataloader=loader).train()


@pytest.mark.parametrize('few', [False, True])
def test_training_sets_of_different_levels_have_no_common_window(
    tmp_path, few
):
    load = dict(type='LoadRGBImage', window='percentiles')
    parts = []
    for name, top in (('a', 1000), ('b', 40_000)):
        (tmp_path / name).mkdir()
        for k in range(6):
            levels = np.full((40, 40), top - k, np.uint16)
            Image.fromarray(levels).save(tmp_path / name / f'{k}.png')
        parts.append(ImageFolder(str(tmp_path / name), pipeline=[load]))
    dataset = ConcatDataset(parts)
    if few:  # as num_batch_per_epoch does
        dataset = _SlicedDataset(dataset, 4)
    runner = SimpleNamespace(cfg=Config(dict(test=dict(load))))
    with pytest.raises(SimimError, match=r'different levels \(\(.*; set win'):
        SiameseIMRunner._share_window(runner, dataset)


def test_the_exact_loop_refuses_a_stock_runner(tmp_path):
    """It would neither resume exactly nor scale the learning rate right."""
    smooth_picture(tmp_path / 'a.png', np.random.default_rng(0))
    config = Config.fromfile(config_path('siamese_im_vit-micro-p8_demo.py'))
    config.work_dir = str(tmp_path / 'run')
    config.train_dataloader.update(
        batch_size=1, num_workers=0, persistent_workers=False
    )
    config.train_dataloader.dataset.data_root = str(tmp_path)
    config.experiment_name = 'stock'
    with pytest.raises(SimimError, match='this one is a Runner, which'):
        Runner.from_cfg(config).train()
