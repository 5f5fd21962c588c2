"""Matches during training: held-out pictures, figures, the same run."""

import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from mmpretrain.registry import HOOKS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

from simim_plugin import config_path
from simim_plugin.datasets import ImageFolder
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import (
    OnlineMatches,
    draw_pairs,
    match_patches,
    matching,
    online_matches,
    place_means,
)
from simim_plugin.evaluation.online_matches import START, Share, verdict
from simim_plugin.recipes.pretraining_report import read_pretraining

from ..test_engine.training import (
    make_runner,
    printed,
    same,
    scalars,
    smooth_picture,
    state,
    trainer,
)
from ..test_models.helpers import small_model
from ..training_processes import in_two

FOLDERS = [
    'siamese_im_vit-base-p16_1xb64-accum8-amp-coslr-400e_folder.py',
    'siamese_im_vit-small-p16_1xb256-accum4-amp-coslr-400e_folder.py',
    'siamese_im_vit-tiny-p16_1xb256-accum4-amp-coslr-400e_folder-128x128.py',
]
PIPELINE = [
    dict(type='LoadRGBImage'),
    dict(type='PairedViews', size=16, crop_scale=(0.3, 1.0)),
    dict(type='BlockwiseMask', grid=(4, 4), num_masked=8, min_block=2),
    dict(type='PackInputs', algorithm_keys=['geometry']),
]
HOOK = dict(type='OnlineMatches', interval=2)


@pytest.fixture
def train(tmp_path):
    """Train with the given hooks and return the Runner."""
    return trainer(tmp_path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a folder of 60 smooth pictures."""
    root = tmp_path_factory.mktemp('pictures') / 'all'
    draw = np.random.default_rng(0)
    for k in range(60):
        smooth_picture(root / f'album {k % 3}' / f'{k}.png', draw)
    return root


def pictures(folder, **options) -> ImageFolder:
    return ImageFolder(str(folder), pipeline=PIPELINE, **options)


def listed(dataset) -> list[str]:
    return [dataset.get_data_info(k)['img_path'] for k in range(len(dataset))]


def held_out(dataset) -> list[str]:
    return [info['img_path'] for info in dataset.held_out_infos]


def entries(runner) -> list[dict]:
    return [line for line in scalars(runner) if 'matches/share' in line]


def test_held_out_pictures_are_not_trained_on(folder):
    every = listed(pictures(folder))
    dataset = pictures(folder, held_out=2)
    assert len(held_out(dataset)) == 2
    assert sorted([*listed(dataset), *held_out(dataset)]) == every
    again = pictures(folder, held_out=2)
    assert held_out(again) == held_out(dataset)
    assert again.fingerprint == dataset.fingerprint
    assert pictures(folder).fingerprint != dataset.fingerprint
    seeds = [pictures(folder, held_out=2, held_out_seed=k) for k in range(3)]
    assert len({tuple(held_out(one)) for one in seeds}) > 1
    # At most one in 20.
    assert len(held_out(pictures(folder, held_out=32))) == 3
    with pytest.raises(SimimError, match='held_out=-1'):
        pictures(folder, held_out=-1)


def test_a_new_picture_changes_few(folder, tmp_path):
    """The choice is by name, so a later run holds out the same ones."""
    for k in range(200):
        (tmp_path / f'{k}.png').touch()
    before = {*held_out(pictures(tmp_path, held_out=10))}
    (tmp_path / 'new.png').touch()
    after = {*held_out(pictures(tmp_path, held_out=10))}
    assert len(before & after) >= 9


def test_figures_are_those_of_match_patches(train, folder):
    dataset = pictures(folder, held_out=3)
    runner = train(HOOK, dataset=dataset, epochs=3)
    found = entries(runner)
    assert [(line['epoch'], line['step']) for line in found] == [
        (0, 0),
        (2, 28),
        (3, 42),
    ]
    assert runner.model.training
    transform = dataset.pipeline.transforms[:2]
    for step in transform:
        assert type(step).__name__ in ('LoadRGBImage', 'PairedViews')
    pairs = [
        pair
        for k, path in enumerate(held_out(dataset))
        for pair in draw_pairs(Compose(transform), [path], k)
    ]
    place = place_means(runner.model, pairs)
    match = match_patches(runner.model, pairs, place=place)
    total = int(match.inside.sum())
    assert found[-1]['matches/share'] == pytest.approx(match.accuracy)
    assert match.accuracy != match_patches(runner.model, pairs).accuracy
    text = printed(runner)
    assert f'of {total} patches find their partner' in text
    assert '3 pictures that are not trained on' in text
    assert 'Patches that find their partner in the other view' in text
    assert f'{found[0]["matches/share"]:.1f} % at the start' in text


def test_a_target_view_of_fewer_patches(folder):
    """Of half the side, as in the row target-half."""
    init_default_scope('mmpretrain')
    steps = Compose(PIPELINE[:2])
    pairs = draw_pairs(steps, held_out(pictures(folder, held_out=3)), 0)
    for pair in pairs:
        online, target = pair['img']
        pair['img'] = [online, target.reshape(8, 2, 8, 2, 3)[:, 0, :, 0]]
    found = match_patches(small_model(), pairs, target_grid=(2, 2))
    assert found.true.shape == found.nearest.shape == (3, 2, 2, 2)
    assert found.nearest.max() == 3  # of the online view's four
    rows, _ = pairs[0]['geometry'].positions((2, 2), (4, 4))
    assert torch.equal(found.true[0, :, 0, 0], rows.flatten())


def test_the_share_is_in_log_tensorboard_and_report(train, folder):
    backends = [
        dict(type='LocalVisBackend'),
        dict(type='TensorboardVisBackend'),
    ]
    runner = train(
        HOOK,
        dataset=pictures(folder, held_out=3),
        epochs=3,
        visualizer=dict(type='Visualizer', vis_backends=backends),
    )
    shares = [line['matches/share'] for line in entries(runner)]
    text = printed(runner)
    for share, epoch in zip(shares, (0, 2, 3), strict=True):
        assert f'Matches after epoch {epoch}: {share:.1f} %' in text
    (place,) = runner.folder.glob('*/vis_data')
    events = EventAccumulator(str(place))
    events.Reload()
    found = [one.value for one in events.Scalars('matches/share')]
    assert found == pytest.approx(shares)
    page = read_pretraining(runner.folder)
    row = ['matches/share', f'{shares[0]:.4g}', f'{shares[-1]:.4g}']
    assert row in page.rows
    assert page.verdict in text
    assert f'{shares[-1]:.1f} % at the end' in page.verdict
    captions = [caption for caption, _ in page.figures]
    assert 'Matches on held-out pictures, percent' in captions


def test_training_is_the_same_without_the_hook(train, folder, monkeypatch):
    states = []
    for hooks in ([], [dict(HOOK, interval=1)]):
        dataset = pictures(folder, held_out=3)
        states.append(state(train(*hooks, dataset=dataset, epochs=2)))
    assert same(*states)


def test_the_start_is_kept_by_a_checkpoint(train, folder):
    """A resumed run does not measure a new start."""
    train(HOOK, dataset=pictures(folder, held_out=3), epochs=1)
    runner = train.runner
    file = next(runner.folder.glob('epoch_1.pth'))
    kept = torch.load(file, weights_only=False)['message_hub']
    start = kept['runtime_info'][START]
    assert start == runner.message_hub.get_info(START)
    again = train(
        HOOK,
        dataset=pictures(folder, held_out=3),
        epochs=2,
        load_from=str(file),
        resume=True,
    )
    assert again.message_hub.get_info(START) == start
    assert [line['epoch'] for line in entries(again)] == [2]


def measure(root, run):
    """Measure in one of two processes."""
    init_default_scope('mmpretrain')
    dataset = pictures(root, held_out=3)
    make_runner(run, [HOOK], dataset=dataset, launcher='pytorch').train()


@pytest.mark.slow
def test_two_processes_measure_what_one_does(train, folder, tmp_path):
    runner = train(HOOK, dataset=pictures(folder, held_out=3))
    run = tmp_path / 'two'
    in_two(measure, folder, run)
    (log,) = run.glob('*/*.log')
    shares = [
        [line for line in text.splitlines() if 'Matches after epoch 0' in line]
        for text in (printed(runner), log.read_text())
    ]
    one, two = ([line.split(' - ')[-1] for line in part] for part in shares)
    assert len(one) == 1
    assert one == two


def test_other_pictures_and_broken_ones(train, folder, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    for k in range(3):
        Image.open(folder / f'album 0/{3 * k}.png').save(other / f'{k}.png')
    (other / 'broken.png').write_bytes(b'no picture')
    hook = dict(HOOK, folder=str(other), max_images=4)
    text = printed(train(hook, dataset=pictures(folder)))
    assert 'OnlineMatches leaves out a picture' in text
    assert '3 pictures that are not trained on' in text
    few = tmp_path / 'few'
    few.mkdir()
    hook = dict(HOOK, folder=str(few))
    for count in (0, 1):
        with pytest.raises(SimimError, match=f'finds {count} pictures'):
            train(hook, dataset=pictures(folder))
        (other / f'{count}.png').rename(few / f'{count}.png')
    (few / '0.png').write_bytes(b'no picture')
    with pytest.raises(SimimError, match='can read 1 of 2 pictures'):
        train(hook, dataset=pictures(folder))


@pytest.mark.parametrize('apart', [True, False])
@pytest.mark.parametrize(
    'wrap',
    [
        lambda one: RepeatDataset(one, 2),
        lambda one: ConcatDataset([one, one]),
    ],
    ids=['repeated', 'concatenated'],
)
def test_wrapped_training_sets(train, folder, wrap, apart):
    dataset = pictures(folder, held_out=3 * apart)
    hook = dict(HOOK) if apart else dict(HOOK, folder=str(folder))
    text = printed(train(hook, dataset=wrap(dataset)))
    assert f'{3 if apart else 32} pictures that are not trained' in text


def test_a_set_without_a_pipeline(train, folder):
    with pytest.raises(SimimError, match='no attribute `pipeline`'):
        train(dict(HOOK, folder=str(folder)))


@pytest.mark.parametrize('count', [0, 1])
def test_off_without_two_pictures(train, folder, count):
    runner = train(HOOK, dataset=pictures(folder, held_out=count))
    assert f'OnlineMatches is off: {count} pictures' in printed(runner)
    assert not entries(runner)


def test_more_processes_than_pictures(folder, monkeypatch):
    """A process without a picture takes part, and counts nothing."""
    init_default_scope('mmpretrain')
    paths = held_out(pictures(folder, held_out=3))
    pairs = draw_pairs(Compose(PIPELINE[:2]), paths, 0)
    model, parts = small_model(), []

    def gather(part):
        parts.append(part)
        return parts

    monkeypatch.setattr(matching, 'all_gather_object', gather)
    assert len(place_means(model, pairs, shared=True)) == 2
    hook = OnlineMatches()
    assert hook._pairs == []
    assert hook._rows(model) == []
    assert [part[0] for part in parts] == [3, 0]
    shared = place_means(model, pairs, shared=True)
    for one, mean in zip(shared, place_means(model, pairs), strict=True):
        torch.testing.assert_close(one, mean)


@pytest.mark.parametrize(
    ('start', 'end', 'words'),
    [
        (20.0, 60.0, 'has learned'),
        (20.0, 21.0, 'no clear change'),
        (50.0, 30.0, 'fewer than at the start'),
        (20.0, 5.5, 'no better than chance'),
    ],
    ids=['learned', 'unclear', 'worse', 'chance'],
)
def test_verdict(start, end, words):
    said = verdict(start, 1.0, Share(end, 1.0, 5.0, 100, 9))
    assert words in said
    assert f'{start} % at the start, {end} % at the end, 5.0 %' in said


def test_joined():
    share = online_matches.joined([(10, 5, 1.0), (30, 15, 3.0)])
    assert share == Share(50.0, 0.0, 10.0, 40, 2)
    share = online_matches.joined([(10, 10, 1.0), (10, 0, 1.0)])
    assert share.percent == 50
    assert share.error == pytest.approx(50 * math.sqrt(1))
    with pytest.raises(SimimError, match='do not overlap'):
        online_matches.joined([])


@pytest.mark.parametrize('name', FOLDERS, ids=['base', 'small', 'tiny-128'])
def test_folder_configs_have_it(name):
    config = Config.fromfile(config_path(name))
    assert config.train_dataloader.dataset.held_out == 32
    (hook,) = [h for h in config.custom_hooks if h.type == 'OnlineMatches']
    assert HOOKS.build(hook).interval == 10
