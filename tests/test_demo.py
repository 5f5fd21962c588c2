"""The demo: a complete report of a small run, or one error sentence."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simim_plugin.checkpoint.export import convert
from simim_plugin.commands.demo import main, parse_args, table
from simim_plugin.demo.data import make_demo_data
from simim_plugin.demo.report import (
    Matches,
    TrainedRun,
    _mean_colour_accuracy,
)
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import (
    PatchMatches,
    extract_features,
    folder_dataset,
    image_loader,
    knn_accuracy,
)
from simim_plugin.files import write_json

from .training_processes import run_tool

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / 'tools'
SMALL = [
    'train_cfg.max_epochs=2',
    'train_dataloader.batch_size=16',
    'train_dataloader.num_workers=0',
    'default_hooks.logger.interval=1',
    'model.backbone.arch.num_layers=1',
    'model.projector.depth=1',
    'model.neck.depth=1',
]


def options(folder, *more):
    return [
        '--work-dir',
        str(folder / 'work'),
        '--data-root',
        str(folder / 'data'),
        *('--train', '48', '--val', '24', '--pairs', '6'),
        *('--cfg-options', *SMALL, *more),
    ]


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """A whole run, two epochs of three steps."""
    folder = tmp_path_factory.mktemp('demo')
    done = run_tool('demo.py', *options(folder), '--seed', '3', cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / 'work' / 'report.json').read_text())
    return folder, report, done.stdout


def test_options_add_up():
    words = ['--cfg-options', 'a=1', '--seed', '2', '--cfg-options', 'b=3']
    assert parse_args(words).cfg_options == ['a=1', 'b=3']


@pytest.mark.slow
def test_report_is_complete_and_printed(demo):
    folder, report, printed = demo
    assert report['seed'] == 3
    assert 'randomness.seed=3' in report['command']
    assert report['data']['train'] == 48 and report['data']['val'] == 24
    assert report['knn']['chance'] == 100 / report['data']['classes']
    for when in ('before', 'after'):
        accuracies = report['knn'][when]
        assert list(accuracies) == ['10', '20', '100', '200']
        for accuracy in accuracies.values():
            # Whole images of 24.
            assert (accuracy * 24 / 100) % 1 == pytest.approx(0, abs=1e-6)
    assert report['match']['pairs'] == 6
    assert report['versions']['torch'] == torch.__version__
    assert list(report['seconds']) == [
        'data',
        'pretraining',
        'features',
        'matches',
        'pictures',
    ]
    assert table([report]) in printed
    assert not list(folder.rglob('*.part'))


@pytest.mark.slow
def test_loss_curve_is_the_logged_one(demo):
    folder, report, _ = demo
    curve = report['loss_curve']
    assert curve['iteration'] == [1, 2, 3, 4, 5, 6]
    (log,) = (folder / 'work' / 'pretraining').glob('*/vis_data/scalars.json')
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    for name in ('loss', 'positive_term', 'negative_term'):
        assert curve[name] == [entry[name] for entry in logged]


@pytest.mark.slow
def test_before_is_where_the_run_began(demo):
    folder, report, _ = demo
    run = TrainedRun(folder / 'work' / 'pretraining', seed=3)
    before, after = run.before.state_dict(), run.after.state_dict()
    # The patch embedding is frozen: it shows the initial draw to the end.
    frozen = 'backbone.patch_embed.projection.weight'
    assert torch.equal(before[frozen], after[frozen])
    trained = 'backbone.layers.0.attn.qkv.weight'
    assert not torch.equal(before[trained], after[trained])
    (checkpoint,) = (folder / 'work' / 'pretraining').glob('epoch_2.pth')
    saved = torch.load(checkpoint, weights_only=False)['state_dict']
    assert all(torch.equal(after[key], saved[key]) for key in saved)
    other = TrainedRun(folder / 'work' / 'pretraining', seed=4)
    assert not torch.equal(other.before.state_dict()[frozen], before[frozen])
    # A second evaluation gives the same figures.
    again = json.loads(json.dumps(run.knn(folder / 'data')))
    assert again['before'] == report['knn']['before']
    assert again['after'] == report['knn']['after']
    matches = run.match(folder / 'data' / 'val', 6)
    assert matches.summary() == report['match']


@pytest.mark.slow
def test_a_moved_run_is_found(demo, tmp_path):
    work = shutil.copytree(demo[0] / 'work', tmp_path / 'moved')
    noted = work / 'pretraining' / 'last_checkpoint'
    noted.write_text('/nowhere/pretraining/epoch_2.pth')
    moved = TrainedRun(work / 'pretraining', seed=3).after.state_dict()
    there = TrainedRun(demo[0] / 'work' / 'pretraining', seed=3).after
    for name, value in there.state_dict().items():
        assert torch.equal(moved[name], value), name


@pytest.mark.slow
def test_pictures_are_there(demo):
    folder, report, _ = demo
    assert list(report['pictures']) == ['loss', 'pair', 'matches']
    for file in report['pictures'].values():
        pixels = np.asarray(Image.open(folder / file).convert('RGB'))
        assert min(pixels.shape[:2]) > 400
        # Neither blank nor one flat colour.
        assert (pixels != 255).any(axis=2).mean() > 0.01


@pytest.mark.slow
def test_failed_training_is_one_sentence_and_leaves_no_report(demo, tmp_path):
    shutil.copytree(demo[0] / 'data', tmp_path / 'data')
    stale = tmp_path / 'work' / 'report.json'
    stale.parent.mkdir()
    stale.write_text('{}')
    words = options(tmp_path, 'train_dataloader.batch_size=49')
    done = run_tool('demo.py', *words, cwd=tmp_path)
    assert done.returncode == 1
    message = done.stderr.strip()
    assert message.startswith('error: The training set has 48 images')
    assert '\n' not in message
    assert not stale.exists()


def test_scenes_of_other_counts_are_replaced_when_asked(
    tmp_path, capsys, monkeypatch
):
    def train(*_):
        raise SimimError('Training begins.')

    monkeypatch.setattr('simim_plugin.commands.demo.run_script', train)
    make_demo_data(tmp_path / 'data', train=2, val=1)
    words = options(tmp_path)  # 48 and 24 images
    for more, sentence, images in (
        ([], 'pass --overwrite', 2),
        (['--overwrite'], 'Training begins', 48),
    ):
        with pytest.raises(SystemExit):
            main([*more, *words], TOOLS)
        assert sentence in capsys.readouterr().err
        assert len([*(tmp_path / 'data' / 'train').rglob('*.jpg')]) == images


def test_report_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / 'report.json'
    write_json(file, dict(good=1))
    with pytest.raises(TypeError):
        write_json(file, dict(good=2, bad=object()))
    assert json.loads(file.read_text()) == dict(good=1)
    assert [path.name for path in tmp_path.iterdir()] == ['report.json']


def test_mean_colour_tells_red_from_blue(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in dict(train=30, val=5).items():
        for name, colour in dict(blue=(0, 0, 200), red=(200, 0, 0)).items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = colour + rng.integers(0, 50, (8, 8, 3))
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / f'{i}.png')
    train, val = (
        list(folder_dataset(tmp_path / s, 8)) for s in ('train', 'val')
    )
    assert _mean_colour_accuracy(train, val) == 100.0
    for item in val:
        item['data_samples'].set_gt_label(1 - item['data_samples'].gt_label)
    assert _mean_colour_accuracy(train, val) == 0.0


@pytest.mark.slow
def test_stopping_the_demo_stops_its_training(demo, tmp_path):
    for name in ('demo.py', 'train.py'):
        (tmp_path / name).write_text((ROOT / 'tools' / name).read_text())
    trainer = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'
    (tmp_path / 'train.py').write_text(trainer)
    shutil.copytree(demo[0] / 'data', tmp_path / 'data')
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / 'demo.py'), *options(tmp_path)]
    )
    log = tmp_path / 'work' / 'pretraining.log'
    while process.poll() is None and not (log.is_file() and log.read_text()):
        time.sleep(0.1)
    process.terminate()
    assert process.wait() == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_several_seeds_have_folders_and_rows_of_their_own(
    tmp_path, capsys, monkeypatch
):
    def fake(args, seed, work_dir, tools):
        assert work_dir == tmp_path / f'seed{seed}'
        knn = dict(before={'20': 20.0}, after={'20': 31.5 + seed})
        return dict(
            seed=seed,
            knn=dict(knn, mean_colour=18.0, chance=12.5),
            match=dict(before=10.0, after=40.0, chance=6.0),
        )

    monkeypatch.setattr('simim_plugin.commands.demo.run', fake)
    main(['--work-dir', str(tmp_path), '--seeds', '0', '2'])
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert [(row['seed'], row['knn_gain']) for row in summary] == [
        (0, 11.5),
        (2, 13.5),
    ]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['0', '20.0', '31.5', '11.5', '10.0', '40.0', '30.0'] in rows
    assert ['2', '20.0', '33.5', '13.5', '10.0', '40.0', '30.0'] in rows


def matches(truths, found, grid=(2, 2)):
    """Matches of pairs whose target patches lie where the online ones do."""
    places = torch.cartesian_prod(*map(torch.arange, grid)).view(*grid, 2)
    true = torch.stack([places + 10 * (1 - t) for t in truths]).double()
    nearest = torch.stack([places + 5 * (1 - f) for f in found])
    return PatchMatches(true, nearest, grid)


def test_the_pairs_of_the_picture_are_typical():
    """One of three pairs is found by half, as all of them together."""
    inside = [torch.ones(2, 2, 1, dtype=int) for _ in range(3)]
    half = torch.tensor([[1, 0], [1, 0]])[..., None]
    none, every = half * 0, half * 0 + 1
    before = matches(inside, [none, half, every])
    drawn = Matches([{}, {}, {}], before, before)
    assert drawn.typical()[0] == 1
    few = torch.tensor([[1, 0], [0, 0]])[..., None]
    before = matches([inside[0], few, inside[2]], [none, few, every])
    drawn = Matches([{}, {}, {}], before, before)
    assert drawn.typical()[-1] == 1


# Half of the demo's width and depth, to save time.
NARROW = [
    'model.backbone.arch.embed_dims=64',
    'model.backbone.arch.num_layers=2',
    'model.backbone.arch.num_heads=2',
    'model.backbone.arch.feedforward_channels=256',
    'model.projector.in_dims=64',
    'model.projector.embed_dims=64',
    'model.projector.num_heads=2',
    'model.neck.embed_dims=64',
    'model.neck.depth=1',
    'model.neck.num_heads=2',
    'model.head.negative_weight=0.24',
]
EPOCHS = 12


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
    """A folder with a short demo of a narrow encoder."""
    folder = tmp_path_factory.mktemp('learned')
    done = run_tool(
        *('demo.py', '--seed', '0'),
        *('--work-dir', 'work', '--data-root', 'data'),
        *('--cfg-options', f'train_cfg.max_epochs={EPOCHS}', *NARROW),
        cwd=folder,
        seconds=1800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.timeout(1800)  # a slow machine takes 10 minutes
def test_the_demo_learns(learned):
    """A short run tells places apart; images follow later."""
    report = json.loads((learned / 'work' / 'report.json').read_text())
    knn, match = report['knn'], report['match']
    assert match['after'] >= match['before'] + 10
    assert knn['after']['200'] > knn['before']['200']
    # The scenes do not give their class away by colour alone.
    assert knn['mean_colour'] < 2 * knn['chance']


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.timeout(1800)
def test_an_encoder_that_is_continued_keeps_its_knn(learned, tmp_path):
    """Pretraining goes on from the encoder alone, for thirty steps."""
    source = learned / 'work' / 'pretraining' / f'epoch_{EPOCHS}.pth'
    convert(source, tmp_path / 'encoder.pth', 'slim', num_heads=2)
    done = run_tool(
        *('train.py', 'siamese_im_vit-micro-p8_2e_continue-demo.py'),
        *('--pretrained', 'encoder.pth', '--work-dir', 'run'),
        '--cfg-options',
        f'train_dataloader.dataset.data_root={learned / "data" / "train"}',
        'train_dataloader.dataset.indices=640',
        'train_cfg.max_epochs=3',
        *NARROW,
        cwd=tmp_path,
        seconds=1800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    model = TrainedRun(tmp_path / 'run', seed=0).after
    features = [
        extract_features(model, image_loader(folder_dataset(folder, 48)))
        for folder in (learned / 'data' / split for split in ('train', 'val'))
    ]
    report = json.loads((learned / 'work' / 'report.json').read_text())
    before = report['knn']['after']['20']
    after = knn_accuracy(*features[0], *features[1], ks=(20,))[20]
    # The standard error of an accuracy on 1,000 images is 1.5.
    assert after > before - 2
