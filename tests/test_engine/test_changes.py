"""What has changed since the run of a checkpoint is listed and judged."""

import copy
import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import Runner

from simim_plugin.checkpoint import CheckpointError, read_checkpoint
from simim_plugin.commands.command_line import build_runner
from simim_plugin.commands.train import configure, parse_args
from simim_plugin.datasets import ImageFolder
from simim_plugin.datasets.fingerprint import fingerprint
from simim_plugin.engine.resuming import check_state
from simim_plugin.engine.schedule import replay
from simim_plugin.errors import SimimError
from simim_plugin.runs.batch_norm import spanning
from simim_plugin.runs.changes import Kind, changes, fixed_ends, settings, some

from ..test_faults import fill
from ..training_processes import TINY

# The rules


def kinds(old: dict, new: dict) -> dict[str, Kind]:
    texts = (Config(settings).pretty_text for settings in (old, new))
    return {change.key: change.kind for change in changes(*texts)}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text('ab"\'\\\n {', max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(['a', 'b', 'c d']), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@limits(max_examples=20, deadline=None)
@given(VALUES)
def test_a_config_does_not_differ_from_itself(value):
    config = dict(model=dict(part=value), custom_hooks=[dict(type='A', b=1)])
    assert kinds(config, config) == {}
    other = dict(model=dict(part=dict(whole=value)))
    assert kinds(config, other)


@pytest.mark.parametrize(
    ('key', 'old', 'new', 'kind'),
    [
        ('work_dir', 'a', 'b', None),
        ('log_level', 'INFO', 'DEBUG', None),
        ('val_dataloader.batch_size', 1, 2, None),
        ('visualizer.type', 'A', 'B', None),
        ('train_dataloader.dataset.data_root', 'a', 'b', None),
        ('train_dataloader.dataset.data_prefix.img', 'a', 'b', None),
        ('train_dataloader.dataset.ann_file', 'a/c.txt', 'b/c.txt', None),
        ('train_dataloader.num_workers', 0, 2, Kind.FREE),
        ('train_dataloader.dataset.skip_broken', 0, 0.1, Kind.FREE),
        ('train_cfg.val_interval', 1, 2, Kind.FREE),
        ('default_hooks.checkpoint.interval', 1, 2, Kind.FREE),
        ('train_cfg.max_epochs', 2, 4, Kind.LENGTH),
        ('train_cfg.max_iters', 2, 4, Kind.LENGTH),
        ('param_scheduler.end', 2, 4, Kind.LENGTH),
        ('train_dataloader.batch_size', 2, 4, Kind.LAYOUT),
        ('train_dataloader.dataset.indices', 2, 4, Kind.LAYOUT),
        ('optim_wrapper.accumulative_counts', 2, 4, Kind.LAYOUT),
        ('train_dataloader.dataset.ann_file', 'a/c.txt', 'd.txt', Kind.COURSE),
        ('train_dataloader.dataset.type', 'A', 'B', Kind.COURSE),
        ('model.head.negative_weight', 0.02, 0.2, Kind.COURSE),
        ('optim_wrapper.optimizer.lr', 0.02, 0.2, Kind.COURSE),
        ('optim_wrapper.type', 'OptimWrapper', 'Other', Kind.COURSE),
        ('param_scheduler.warmup', 1, 2, Kind.COURSE),
        ('auto_scale_lr.base_batch_size', 1, 2, Kind.COURSE),
        ('sync_bn', 'torch', None, Kind.COURSE),
        ('optim_wrapper.optimizer.type', 'SGD', 'AdamW', Kind.FIXED),
        ('optim_wrapper.optimizer.amsgrad', False, True, Kind.FIXED),
        ('optim_wrapper.paramwise_cfg.norm_decay_mult', 1, 0, Kind.FIXED),
        ('randomness.seed', 1, 0, Kind.FIXED),
        ('randomness.seed', None, 0, None),
        ('model.backbone.pretrained', 'a.pth', 'b.pth', Kind.FIXED),
        ('model.backbone.pretrained', 'a.pth', None, None),
        ('model.init_cfg.checkpoint', None, 'b.pth', Kind.FIXED),
        ('train_cfg.type', 'A', 'B', Kind.FIXED),
    ],
)
def test_the_kind_of_each_change(key, old, new, kind):
    def nested(value):
        for name in reversed(key.split('.')):
            value = {name: value}
        return value

    assert kinds(nested(old), nested(new)) == ({key: kind} if kind else {})
    assert kinds(nested(old), nested(old)) == {}


def test_lists_hooks_and_classes():
    old = dict(
        train_dataloader=dict(
            dataset=dict(
                pipeline=[dict(type='A'), dict(type='B', size=(1, 2))]
            )
        ),
        custom_hooks=[
            dict(type='mmpretrain.ThroughputHook'),
            dict(type='MomentumHook', base_momentum=0.9),
        ],
        optim_wrapper=dict(optimizer=dict(lr=1.0, betas=(0.9, 0.95))),
        model=dict(type=Runner, low=float('inf')),
    )
    new = Config(old).to_dict()
    new['train_dataloader']['dataset']['pipeline'][1]['size'] = (1, 3)
    new['optim_wrapper']['optimizer']['betas'] = (0.9, 0.99)
    new['custom_hooks'] = [
        dict(type='MomentumHook', base_momentum=0.8),
        dict(type='CollapseMonitor', interval=5),
    ]
    assert kinds(old, new) == {
        'train_dataloader.dataset.pipeline.1.size.1': Kind.COURSE,
        'optim_wrapper.optimizer.betas.1': Kind.COURSE,
        'custom_hooks.MomentumHook.base_momentum': Kind.COURSE,
        'custom_hooks.ThroughputHook.type': Kind.FREE,
        'custom_hooks.CollapseMonitor.type': Kind.FREE,
        'custom_hooks.CollapseMonitor.interval': Kind.FREE,
    }


@pytest.mark.parametrize(
    ('hook', 'kind'),
    [
        (dict(type='OnlineMatches', interval=2), Kind.FREE),
        (dict(type='mmpretrain.OnlineKNN', train='a', val='b'), Kind.FREE),
        (dict(type='CollapseMonitor', interval=2), Kind.FREE),
        (dict(type='ClassCountHook'), Kind.FREE),
        (dict(type='EmptyCacheHook', after_epoch=True), Kind.FREE),
        (dict(type='ProfilerHook', by_epoch=False), Kind.FREE),
        (dict(type='PNGVisualizationHook', draw=True), Kind.FREE),
        (dict(type='FitTokenizerHook'), Kind.FREE),
        (dict(type='NonFiniteGuard'), Kind.COURSE),
        (dict(type='HoldBackboneHook', epochs=1), Kind.COURSE),
        (dict(type='HoldLastLayerHook', epochs=1), Kind.COURSE),
        (dict(type='TemperatureHook', epochs=1), Kind.COURSE),
        (dict(type='StepEMAHook', momentum=0.1), Kind.COURSE),
        (dict(type='MomentumHook', base_momentum=0.9), Kind.COURSE),
        (dict(type='EMAHook'), Kind.COURSE),
        (dict(type='EarlyStoppingHook', monitor='a'), Kind.COURSE),
        (dict(type='SyncBuffersHook'), Kind.COURSE),
        (dict(type='PreciseBNHook'), Kind.COURSE),
        (dict(type='SwitchRecipeHook', schedule=[]), Kind.COURSE),
        (dict(type='SmallViewsFirst', scale=0.5), Kind.COURSE),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else value.name,
)
def test_a_hook_comes_or_goes(hook, kind):
    """With nothing but its own lines, also as the last one."""
    name = hook['type'].rpartition('.')[2]
    wanted = {f'custom_hooks.{name}.{key}': kind for key in hook}
    other = dict(type='IterTimerHook')
    for rest in ([], [other]):
        for one, two in (([hook, *rest], rest), (rest, [hook, *rest])):
            one, two = (dict(custom_hooks=hooks) for hooks in (one, two))
            assert kinds(one, two) == wanted
    assert kinds(dict(custom_hooks=[hook]), {}) == wanted
    assert kinds({}, dict(custom_hooks=[])) == {}
    twice = dict(custom_hooks=[hook, hook])
    found = kinds(dict(custom_hooks=[hook]), twice)
    assert {*found.values()} == {kind}


def test_what_a_hook_does_may_differ_from_that_it_is_there():
    def of(**options):
        return dict(custom_hooks=[options])

    guard = dict(type='NonFiniteGuard', max_in_row=9)
    assert kinds(of(**guard), of(**dict(guard, max_in_row=5))) == {
        'custom_hooks.NonFiniteGuard.max_in_row': Kind.FREE
    }
    fit = dict(type='FitTokenizerHook', images=9)
    assert kinds(of(**fit), of(**dict(fit, images=5))) == {
        'custom_hooks.FitTokenizerHook.images': Kind.FIXED
    }


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        *((name, Kind.FREE) for name in ('timer', 'logger', 'checkpoint')),
        *((name, Kind.FREE) for name in ('runtime_info', 'visualization')),
        ('param_scheduler', Kind.COURSE),
        ('sampler_seed', Kind.COURSE),
        ('another', Kind.COURSE),
    ],
)
def test_default_hooks(name, kind):
    old, new = ({'default_hooks': hooks} for hooks in ({name: None}, {}))
    assert kinds(old, new) == {f'default_hooks.{name}': kind}
    assert kinds({}, new) == {}
    new = dict(default_hooks={name: dict(type='A')})
    assert {*kinds(old, new).values()} == {kind}


@pytest.mark.parametrize(
    'text',
    ['a = ', 'f()', 'a.b = 1', 'None', '(' * 9999, 'a = "\0"', 'a, b = 1'],
)
def test_another_text_is_no_config(text):
    with pytest.raises(ValueError, match=r'.'):
        settings(text)


def test_a_config_is_not_run(tmp_path):
    file = tmp_path / 'file'
    text = f"model = dict(type=open('{file}', 'w').write('a'))"
    assert changes(text, 'model = dict(type=1)')
    assert not file.exists()


def test_escape_codes_of_a_config_are_not_printed():
    (change,) = changes(r"model = {'\x1b[1m\n': 1}", 'model = {}')[:1]
    assert str(change).isprintable()
    assert len(some([change] * 9)) < 500


def test_schedules_that_end_at_a_written_step_are_found():
    config = Config(
        dict(
            param_scheduler=[
                dict(type='LinearLR', end=5),
                dict(type='CosineAnnealingLR', begin=5, end=20),
            ]
        )
    )
    assert fixed_ends(config.pretty_text, 20) == ['param_scheduler.1.end']
    assert fixed_ends(config.pretty_text, 30) == []


def test_replayed_schedules_are_those_of_a_run():
    def build():
        weight = torch.nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        return optimizer, [
            LinearLR(optimizer, 0.1, end=4, by_epoch=False),
            CosineAnnealingLR(optimizer, T_max=3, begin=1, end=4),
        ]

    optimizer, schedulers = build()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for step in range(1, 13):
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
            if step % 3 == 0:
                schedulers[1].step()
            again, others = build()
            replay(others, step, 3)
            lr = optimizer.param_groups[0]['lr']
            assert again.param_groups[0]['lr'] == lr


# Runs


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """Train 2 epochs of 6 steps, with a checkpoint every 5."""
    folder = tmp_path_factory.mktemp('changes')
    (folder / 'tiny.py').write_text(TINY)
    fill(folder / 'images', 24)
    start(folder, folder / 'run')
    return folder


def start(folder, work_dir, *options, flags=(), images='images') -> Runner:
    """Train with the training command's settings."""
    words = [
        str(folder / 'tiny.py'),
        *('--work-dir', str(work_dir)),
        *flags,
        '--cfg-options',
        f'train_dataloader.dataset.data_root={folder / images}',
        'train_cfg.max_epochs=2',
        'randomness.seed=1',
        'param_scheduler.warmup=0',
        'default_hooks.checkpoint.max_keep_ckpts=9',
        *options,
    ]
    runner = build_runner(configure(parse_args(words)))
    runner.train()
    return runner


@pytest.fixture
def resume(base, tmp_path):
    """Resume from step 10 with options, in a folder of its own."""

    def go_on(*options, flags=(), at=10, **more):
        file = str(base / f'run/iter_{at}.pth')
        flags = ('--resume', file, *flags)
        return start(base, tmp_path / 'on', *options, flags=flags, **more)

    return go_on


def rates(work_dir) -> dict[int, float]:
    lines = [
        json.loads(line)
        for file in sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    return {line['step']: line['lr'] for line in lines if 'lr' in line}


def log(work_dir) -> str:
    return ''.join(f.read_text() for f in Path(work_dir).glob('*/*.log'))


def test_extending_recomputes_the_schedules(base, resume, tmp_path):
    longer = 'train_cfg.max_epochs=4'
    words = r'train_cfg\.max_epochs: 2 -> 4 .*--extend'
    with pytest.raises(CheckpointError, match=words):
        resume(longer, at=12)
    with pytest.raises(CheckpointError, match=words):
        resume(longer, at=12, flags=['--accept-changes'])
    runner = resume(longer, at=12, flags=['--extend'])
    assert runner.iter == 24
    start(base, tmp_path / 'whole', longer)
    expected = rates(tmp_path / 'whole')
    found = rates(tmp_path / 'on')
    assert list(found) == list(range(13, 25))
    assert all(expected[step] == found[step] for step in found)
    assert 'recomputed over 24 steps: after step 12' in log(tmp_path / 'on')
    text = (tmp_path / 'on/config.py').read_text()
    assert 'extend' not in settings(text)


def test_a_length_that_is_done_is_no_extension(resume):
    with pytest.raises(CheckpointError, match='has done 1 epochs; set more'):
        resume('train_cfg.max_epochs=1', flags=['--extend'])


def test_a_finished_run_ends_again(resume, tmp_path):
    assert resume(at=12).iter == 12
    assert 'Changed since' not in log(tmp_path / 'on')


LR = 'optim_wrapper.optimizer.lr'


def test_another_course_is_refused_or_taken(resume, tmp_path):
    options = {
        LR: 0.1,
        'optim_wrapper.optimizer.weight_decay': 0.5,
        'model.head.negative_weight': 0.3,
        'train_dataloader.dataset.pipeline.2.num_masked': 8,
        'custom_hooks.0.base_momentum': 0.5,
        'param_scheduler.eta_min': 0.001,
    }
    free = 'train_dataloader.dataset.max_refetch=7'
    words = [f'{key}={value}' for key, value in options.items()]
    with pytest.raises(CheckpointError) as caught:
        resume(free, *words)
    message = str(caught.value)
    assert '2 more, listed above would change the course' in message
    assert '--accept-changes' in message
    listed = log(tmp_path / 'on').partition('Changed since')[2]
    for key, value in options.items():
        key = key.replace('hooks.0', 'hooks.MomentumHook')
        assert re.search(f' {re.escape(key)}: .* -> {value}\n', listed), key
    assert 'max_refetch: absent -> 7' in listed
    runner = resume(free, *words, flags=['--accept-changes'])
    assert runner.iter == 12
    groups = runner.optim_wrapper.optimizer.param_groups
    assert {group['weight_decay'] for group in groups} == {0.0, 0.5}
    assert {group['initial_lr'] for group in groups} == {0.1 * 4 / 64}
    assert runner.model.head.negative_weight == 0.3
    dataset = runner.train_dataloader.dataset
    assert dataset.pipeline.transforms[2].num_masked == 8
    now = settings(read_checkpoint(tmp_path / 'on/iter_12.pth')['meta']['cfg'])
    assert now['model']['head']['negative_weight'] == 0.3
    assert 'accept_changes' not in now


def test_sync_bn_without_effect_is_listed_alone(resume, tmp_path):
    assert resume('sync_bn=torch').iter == 12
    assert 'sync_bn: absent -> ' in log(tmp_path / 'on')


def test_sync_bn_of_several_processes_counts_if_a_layer_needs_it(resume):
    runner = resume()
    model, meta = runner.model, dict(cfg='sync_bn = None')
    runner.cfg = Config.fromstring("sync_bn = 'torch'", '.py')

    def kind(processes, *layers):
        runner._world_size = processes
        runner.model = torch.nn.Sequential(model, *layers)
        (change,) = runner._list_changes(meta, 'file')
        return change.kind

    assert kind(2) is Kind.FREE
    assert kind(1, torch.nn.BatchNorm1d(2)) is Kind.FREE
    assert kind(2, torch.nn.BatchNorm1d(2)) is Kind.COURSE
    assert kind(2, spanning(torch.nn.BatchNorm1d(2))) is Kind.COURSE


def test_an_accepted_learning_rate_is_that_of_the_run(base, resume, tmp_path):
    lr = read_checkpoint(base / 'run/iter_10.pth')['meta']['cfg']
    lr = settings(lr)['optim_wrapper']['optimizer']['lr']
    resume(f'{LR}={10 * lr}', flags=['--accept-changes'])
    before, now = rates(base / 'run'), rates(tmp_path / 'on')
    for step in (11, 12):
        assert now[step] == pytest.approx(10 * before[step])


@pytest.mark.parametrize(
    'option',
    [
        'randomness.seed=5',
        'optim_wrapper.optimizer.type=Adam',
        'optim_wrapper.paramwise_cfg.flat_decay_mult=0.5',
        'model.pretrained=FILE',
    ],
)
def test_what_cannot_take_effect_is_refused(base, resume, option):
    option = option.replace('FILE', str(base / 'run/iter_5.pth'))
    words = r'cannot take effect.*start a new run with --pretrained FILE'
    with pytest.raises(CheckpointError, match=words):
        resume(option, flags=['--accept-changes'])


def test_a_model_that_does_not_fit_is_refused_in_any_case(resume):
    with pytest.raises(CheckpointError, match='does not fit the model'):
        resume(
            'model.projector.depth=3',
            flags=['--accept-changes'],
        )


@pytest.mark.parametrize('option', ['--extend', '--accept-changes'])
def test_the_options_need_resume(base, tmp_path, option):
    with pytest.raises(SimimError, match=f'{option} .*add --resume'):
        start(base, tmp_path / 'on', flags=[option])


# Broken states

WHOLE = dict(
    meta=dict(iter=3, epoch=1, seed=1, layout=dict(seed=1, images=4)),
    optimizer={},
    message_hub={},
)


@pytest.mark.parametrize(
    ('place', 'value'),
    [
        ('meta', [1]),
        ('meta', None),
        ('optimizer', []),
        ('message_hub', 5),
        ('meta.iter', 'x'),
        ('meta.iter', -5),
        ('meta.iter', 2**70),
        ('meta.iter', True),
        ('meta.epoch', None),
        ('meta.seed', 'x'),
        ('meta.layout', [1]),
        ('meta.layout.seed', -1),
        ('meta.layout.images', '\x1b[1m\nerror: FAKE'),
        ('meta.layout.names', 5),
    ],
)
def test_a_state_that_no_run_writes_is_named(place, value):
    check_state(WHOLE, 'file.pth')
    content = copy.deepcopy(WHOLE)
    *above, last = place.split('.')
    inner = content
    for key in above:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(CheckpointError, match=rf'broken \({place}\)'):
        check_state(content, 'file.pth')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(state_dict=5), r'broken \(state_dict\)'),
        (dict(param_schedulers=[]), r'broken \(param_schedulers\)'),
        (dict(param_schedulers=[dict(last_step='x')]), r'broken \(param_sch'),
        (dict(message_hub=dict(log_scalars=5)), r'broken \(message_hub.log'),
        (dict(optimizer=dict(state=5)), r'broken \(optimizer\)'),
        (dict(meta=dict(iter=10**9)), 'step 1000000000 of epoch 1'),
        (dict(meta=dict(layout=dict(seed=1))), 'unknown images'),
    ],
    ids=['weights', 'none', 'schedule', 'figures', 'optimizer', 'far', 'few'],
)
def test_a_broken_state_is_not_resumed(base, tmp_path, change, words):
    content = read_checkpoint(base / 'run/iter_10.pth')
    meta = {**content['meta'], **change.get('meta', {})}
    torch.save({**content, **change, 'meta': meta}, tmp_path / 'file.pth')
    flags = ['--resume', str(tmp_path / 'file.pth')]
    with pytest.raises(CheckpointError, match=words):
        start(base, tmp_path / 'on', flags=flags)


# The images


def test_the_fingerprint_is_of_names_in_order(tmp_path):
    names = ['a.jpg', 'b/c.jpg', 'b/d.jpg']
    one = fingerprint([f'/x/{name}' for name in names], '/x')
    assert fingerprint([f'/y/z/{name}' for name in names], '/y/z/') == one
    for other in (names[::-1], names[:2], ['a.jpg', 'b/c.jpg', 'b/e.jpg']):
        assert fingerprint([f'/x/{name}' for name in other], '/x') != one
    joined = fingerprint(['/x/a.jpg', '/x/b.jpg'], '/x')
    assert fingerprint(['/x/a.jpgb.jpg'], '/x') != joined
    fingerprint(['/x/\udcff.jpg'], '/x')  # no UTF-8


def test_a_moved_folder_has_the_same_images(base, tmp_path):
    fill(tmp_path / 'images', 3)
    (tmp_path / 'images').rename(tmp_path / 'moved')
    fill(tmp_path / 'images', 3)
    folders = (tmp_path / 'images', f'{tmp_path}/moved/', tmp_path / 'moved')
    hashes = {ImageFolder(str(root)).fingerprint for root in folders}
    assert len(hashes) == 1


def test_other_images_are_refused_or_begin_their_epoch(base, resume):
    fill(base / 'others', 24)
    (base / 'others/000.png').rename(base / 'others/zzz.png')
    words = 'had other images: as many'
    with pytest.raises(CheckpointError, match=words):
        resume(images='others', flags=['--accept-changes'])
    assert resume(images='others', flags=['--restart-epoch']).iter == 12


def test_a_checkpoint_without_names_and_config_is_resumed(
    base, resume, tmp_path
):
    content = read_checkpoint(base / 'run/iter_10.pth')
    assert content['meta']['layout'].pop('names')
    del content['meta']['cfg']
    torch.save(content, base / 'run/iter_9.pth')
    assert resume(at=9).iter == 12
    assert 'does not say which images' in log(tmp_path / 'on')
    assert 'no config to compare' in log(tmp_path / 'on')


def test_other_images_of_a_stock_loop(tmp_path):
    """Fine-tuning, detection and segmentation train in mmengine's loops."""
    (tmp_path / 'tiny.py').write_text(TINY)
    fill(tmp_path / 'images', 8)
    fill(tmp_path / 'others', 8)
    (tmp_path / 'others/000.png').rename(tmp_path / 'others/zzz.png')
    stock = (
        'train_cfg.type=EpochBasedTrainLoop',
        'train_dataloader.sampler.type=DefaultSampler',
        'default_hooks.checkpoint.interval=2',
    )
    start(tmp_path, tmp_path / 'run', *stock)
    file = tmp_path / 'run/iter_2.pth'

    def resume(*flags, images='images'):
        on = tmp_path / 'on'
        flags = ('--resume', str(file), *flags)
        return start(tmp_path, on, *stock, flags=flags, images=images)

    with pytest.raises(CheckpointError, match=r'other images.*--accept-ch'):
        resume(images='others')
    assert resume('--accept-changes', images='others').iter > 2
    assert resume().iter > 2
    content = read_checkpoint(file)
    content['meta']['layout']['processes'] = 2
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r'had 2 processes.* has 1; st'):
        resume()
    assert resume('--accept-changes').iter > 2
    del content['meta']['layout']['processes']  # of an older version
    torch.save(content, file)
    assert resume().iter > 2
    del content['meta']['layout']
    torch.save(content, file)
    assert resume(images='others').iter > 2
    assert 'does not say which images' in log(tmp_path / 'on')


STOCK = (
    'train_cfg.type=EpochBasedTrainLoop',
    'train_cfg.max_epochs=4',
    'train_dataloader.sampler.type=DefaultSampler',
    'default_hooks.checkpoint.by_epoch=True',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.logger.interval=1',
)


@pytest.mark.parametrize(
    ('options', 'images', 'length'),
    [
        (
            (
                'train_dataloader.batch_size=2',
                'optim_wrapper.accumulative_counts=2',
            ),
            'images',
            4,
        ),
        ((), 'twice', 4),
    ],
    ids=['batch', 'images'],
)
def test_a_stock_loop_goes_on_with_epochs_of_another_length(
    tmp_path, options, images, length
):
    """The rates are those of a run with the new settings from its start."""
    (tmp_path / 'tiny.py').write_text(TINY)
    fill(tmp_path / 'images', 8)
    fill(tmp_path / 'twice', 16)
    start(tmp_path, tmp_path / 'run', *STOCK)
    flags = ('--resume', str(tmp_path / 'run/epoch_2.pth'))
    flags += ('--accept-changes',)
    on = tmp_path / 'on'
    start(tmp_path, on, *STOCK, *options, flags=flags, images=images)
    whole = tmp_path / 'whole'
    start(tmp_path, whole, *STOCK, *options, images=images)
    wanted, found = rates(whole), rates(on)
    assert max(wanted) == 4 * length
    assert found == {k: v for k, v in wanted.items() if k > 2 * length}


def test_accepted_processes_recompute_a_scaled_rate(tmp_path):
    (tmp_path / 'tiny.py').write_text(TINY)
    fill(tmp_path / 'images', 8)
    start(tmp_path, tmp_path / 'run', *STOCK)
    file = tmp_path / 'run/epoch_2.pth'
    content = read_checkpoint(file)
    content['meta']['layout']['processes'] = 2
    for group in content['optimizer']['param_groups']:
        group.update(lr=2 * group['lr'], initial_lr=2 * group['initial_lr'])
    for schedule in content['param_schedulers']:
        schedule['base_values'] = [2 * v for v in schedule['base_values']]
    torch.save(content, file)
    flags = ('--resume', str(file), '--accept-changes')
    start(tmp_path, tmp_path / 'on', *STOCK, flags=flags)
    wanted, found = rates(tmp_path / 'run'), rates(tmp_path / 'on')
    assert found == {k: wanted[k] for k in found}
