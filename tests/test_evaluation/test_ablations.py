"""The ablation command: equal options for all rows, and one table."""

import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.registry import MODELS
from PIL import Image

from simim_plugin.benchmarks import timing, training
from simim_plugin.commands.ablate import main, parse_args
from simim_plugin.commands.row_figures import learning_curve, matched_share
from simim_plugin.commands.row_runs import RowRun, measured_costs
from simim_plugin.commands.row_tables import (
    collect,
    describe,
    draw,
    draw_curves,
    read_curves,
    table,
)
from simim_plugin.commands.rows import PAPER_LINEAR, row_names
from simim_plugin.config_files import config_path
from simim_plugin.demo.data import make_demo_data
from simim_plugin.errors import SimimError

from ..training_processes import run_tool

ROOT = Path(__file__).resolve().parents[2]

# They record their arguments, and write the files of the real ones.
TRAIN = """
import json, os, pathlib, sys
words = sys.argv[1:]
work = pathlib.Path(words[words.index('--work-dir') + 1])
work.mkdir(parents=True, exist_ok=True)
with open('calls', 'a') as file:
    print('train', os.environ['SIMIM_SCALE'], *words, file=file)
(work / 'last.pth').write_text(words[0])
(work / 'last_checkpoint').write_text('/where/it/was/last.pth')
"""
EVALUATE = """
import json, pathlib, sys
words = sys.argv[1:]
with open('calls', 'a') as file:
    print('evaluate', *words, file=file)
if pathlib.Path('broken').exists():
    sys.exit('error: broken.')
seed = int(words[words.index('--seed') + 1])
top1 = len(pathlib.Path(words[0]).name) + seed
work = pathlib.Path(words[words.index('--work-dir') + 1])
work.mkdir(parents=True, exist_ok=True)
tasks = {'knn': {'metrics': {'knn/top1_k20': top1}},
         'linear': {'metrics': {'accuracy/top1': 2 * top1}}}
(work / 'results.json').write_text(json.dumps({'tasks': tasks}))
"""


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A folder with images and stand-ins for the tools."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SIMIM_SCALE', 'in1k')
    (tmp_path / 'data' / 'demo').mkdir(parents=True)
    (tmp_path / 'train.py').write_text(TRAIN)
    (tmp_path / 'evaluate.py').write_text(EVALUATE)
    return tmp_path


def calls(folder):
    file = folder / 'calls'
    return file.read_text().splitlines() if file.exists() else []


def test_every_row_is_run_alike(away, capsys):
    words = ['untrained', 'j', 'i', '--seeds', '0', '3', '--cfg-options']
    main([*words, 'train_cfg.max_epochs=2'], tools=away)
    said = calls(away)
    trained = [call.split() for call in said if call.startswith('train')]
    assert [Path(call[2]).stem for call in trained] == [
        *['siamese_im_row-j'] * 2,
        *['siamese_im_row-i'] * 2,
    ]
    for call, seed in zip(trained, (0, 3, 0, 3), strict=True):
        assert call[1] == 'demo'
        assert call[-3:] == [
            f'randomness.seed={seed}',
            'train_dataloader.dataset.data_root=data/demo/train',
            'train_cfg.max_epochs=2',
        ]
    evaluated = [call.split()[1] for call in said if call[0] == 'e']
    assert len(evaluated) == 6
    # The last checkpoint is looked for where the folder is now.
    weights = Path('work_dirs/ablations/demo/i/seed3/pretraining/last.pth')
    assert evaluated[-1] == str(weights) and weights.is_file()
    work = away / 'work_dirs' / 'ablations' / 'demo'
    results = json.loads((work / 'results.json').read_text())
    assert list(results) == ['untrained', 'i', 'j']  # in the rows' order
    assert results['j'] == {
        'knn': {'0': 8, '3': 11},
        'linear': {'0': 16, '3': 22},
    }
    page = (work / 'results.md').read_text()
    assert page in capsys.readouterr().out
    assert (
        '| `j` | (i) without the negative term | 9.5 (8.0 to 11.0) |' in page
    )
    with Image.open(work / 'results.png') as picture:
        assert picture.width > picture.height / 2


def test_a_budget_sets_the_epochs(away):
    """A step of half the operations trains for twice the epochs."""
    name = 'GFLOPs an image'
    folder = away / 'rows'
    folder.mkdir()
    costs = {f'{row}: {name}': 1.0 for row in ('i', 'mae', 'dino')}
    costs |= {f'mae: {name}, / (i)': 0.5, f'dino: {name}, / (i)': 2.5}
    (folder / 'costs.json').write_text(json.dumps(costs))
    words = ['i', 'mae', 'dino', '--budget', 'flops', '--work-dir', 'rows']
    main([*words, '--cfg-options', 'train_cfg.max_epochs=10'], tools=away)
    trained = [call for call in calls(away) if call.startswith('train')]
    epochs = [call.rpartition('max_epochs=')[2] for call in trained]
    assert dict(zip(['i', 'mae', 'dino'], epochs, strict=True)) == {
        'i': '10',
        'mae': '20',
        'dino': '4',
    }


def test_costs_are_columns_and_curves_are_drawn(away):
    """Over images, and over the time that they take."""
    folder = away / 'rows'
    results = {row: {'knn': {'0': 20.0}} for row in ('i', 'mae')}
    costs = {'i: GFLOPs an image': 0.5, 'i: seconds a step': 0.32}
    page = table(results, costs).splitlines()
    assert page[0].endswith(
        '| GFLOPs an image | ms an image | peak MB of a step |'
    )
    lines = {line.split('`')[1]: line for line in page[2:]}
    assert lines['i'].endswith('| 0.50 | 20.00 | - |')
    assert lines['mae'].endswith('| - | - | - |')

    for seed, knn in ((0, 20.0), (1, 30.0)):
        points = [dict(epoch=1, images=6000, knn=knn)]
        file = folder / 'i' / f'seed{seed}' / 'curve.json'
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(points))
    curves = read_curves(folder)
    assert curves == {'i': [(6000, 25.0)]}
    left, right = draw_curves(curves, costs).axes
    assert left.lines[0].get_xydata().tolist() == [[6.0, 25.0]]
    assert right.lines[0].get_xydata().tolist() == [[2.0, 25.0]]


def test_curves_of_rows_that_are_done_go_on(away, monkeypatch):
    for part in ('train', 'val'):
        (away / 'data' / 'demo' / part).mkdir()
    folder = away / 'rows'
    folder.mkdir()
    costs = {'i: GFLOPs an image': 1.0}
    (folder / 'costs.json').write_text(json.dumps(costs))
    followed = []
    monkeypatch.setattr(
        RowRun,
        '_follow',
        lambda run, last: followed.append((run.folder, last)),
    )
    for _ in range(2):
        words = ['untrained', 'i', '--curves', '--work-dir', 'rows']
        main(words, tools=away)
    assert followed == [(Path('rows/i/seed0'), 8)] * 2
    assert sum(call.startswith('train') for call in calls(away)) == 1


def test_measured_costs_are_kept(away, monkeypatch):
    """Those of other rows are added, beside row (i)."""
    name = 'GFLOPs an image'
    folder = away / 'rows'
    folder.mkdir()
    known = {f'{row}: {name}': 1.0 for row in ('i', 'mae')}
    (folder / 'costs.json').write_text(json.dumps(known))
    asked = []

    def measure(files, scale, batch, rounds, change):
        asked.append([*files])
        return {f'i: {name}': 1.1, f'dino: {name}': 2.2}

    monkeypatch.setattr(training, 'measure_methods', measure)
    args = parse_args(['i', 'dino', '--work-dir', 'rows'])
    assert measured_costs(args) == {**known, f'dino: {name}': 2.2}
    assert measured_costs(args) == measured_costs(parse_args([*LAST]))
    assert asked == [['i', 'dino']]


def test_costs_are_those_of_the_options(away, monkeypatch):
    """One block of two in the decoder takes fewer operations."""
    found = []

    def measure(files, scale, batch, rounds, change):
        step = training.pretraining_step(files['i'], 2, False, change=change)
        found.append(timing.count_flops(step))
        return {'i: GFLOPs an image': found[-1]}

    monkeypatch.setattr(training, 'measure_methods', measure)
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    words = ['i', '--scale', 'demo', '--work-dir']
    measured_costs(parse_args([*words, 'a']))
    options = ['--cfg-options', 'model.neck.depth=1']
    measured_costs(parse_args([*words, 'b', *options]))
    assert 0.5 < found[1] / found[0] < 0.95


LAST = ('mae', '--work-dir', 'rows')


def test_options_add_up(away):
    words = ['i', '--cfg-options', 'a=1', '--cfg-options', 'b=2', 'c=3']
    assert parse_args(words).cfg_options == ['a=1', 'b=2', 'c=3']
    assert parse_args(['i']).cfg_options == []


def test_a_budget_of_no_number_is_refused(away, capsys):
    folder = away / 'rows'
    folder.mkdir()
    costs = {'i: seconds a step': 1.0}
    (folder / 'costs.json').write_text(json.dumps(costs))
    words = ['i', '--budget', 'time', '--work-dir', 'rows', '--cfg-options']
    with pytest.raises(SystemExit):
        main([*words, 'train_cfg.max_epochs=ten'], tools=away)
    assert 'max_epochs=ten in --cfg-options is no' in capsys.readouterr().err
    assert not calls(away)


def test_rivals_are_rows(away):
    main(['dino', 'moco-v3'], tools=away)
    trained = [call.split() for call in calls(away) if call[0] == 't']
    assert [Path(call[2]).stem for call in trained] == [
        'siamese_im_rival-dino',
        'siamese_im_rival-moco-v3',
    ]
    evaluated = [call for call in calls(away) if call[0] == 'e']
    assert ['teacher' in call for call in evaluated] == [True, False]


def test_an_interrupted_command_resumes_row_by_row(away, capsys):
    (away / 'broken').touch()
    with pytest.raises(SystemExit):
        main(['i', 'j'], tools=away)
    assert 'error: broken.' in capsys.readouterr().err
    (away / 'broken').unlink()
    before = len(calls(away))
    main(['i', 'j'], tools=away)
    assert len(calls(away)) == before + 4
    main(['i', 'j'], tools=away)
    assert len(calls(away)) == before + 4


def test_rows_that_would_not_compare_are_refused(away, capsys):
    model = ['model.neck.depth=1', 'model.projector.depth=1']
    options = ['--cfg-options', *model]
    main(['i', *options], tools=away)
    with pytest.raises(SystemExit):
        main(['j', *options[:2], 'model.projector.depth=2'], tools=away)
    assert 'other options (--cfg-options; see' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['j', *options, '--gpus', '2'], tools=away)
    assert 'other options (--gpus; see' in capsys.readouterr().err
    assert not (away / 'work_dirs/ablations/demo/j').exists()
    options[1:] = options[:0:-1]  # in another order
    data = str(Path('data/demo').resolve())
    main(['i', *options, '--data', data], tools=away)
    assert 'done before' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['z'], 'no row called z; the rows are untrained, mae, a, b'),
        (['i', '--tasks', 'knn,finetune'], 'not compared by finetune'),
        (['i', '--gpus', '0'], '--gpus is 0'),
        (['i', '--data', 'nowhere'], 'no images at nowhere'),
        (['i', '--curves'], 'reads data/demo/train and data/demo/val'),
        (
            ['i', '--tasks', 'segmentation', '--scale', 'cifar10'],
            'scale cifar10 have no masks',
        ),
    ],
)
def test_bad_options_are_a_sentence(away, words, sentence):
    with pytest.raises(SimimError, match=sentence):
        parse_args(words)


@pytest.mark.parametrize(
    ('option', 'sentence'),
    [
        ('param_scheduler.warmup=0', 'dino .* write param_scheduler.0.warmup'),
        ('model.projector.depth=1', 'dino .*model.projector is no setting'),
        ('model.backbone.x=1', 'row i .*backbone.x is no setting of'),
        ('model.type.x=1', r'row i .*Cannot read the config \(TypeError'),
    ],
)
def test_options_of_all_rows_are_checked_first(away, capsys, option, sentence):
    with pytest.raises(SystemExit):
        main(['i', 'dino', '--cfg-options', option], tools=away)
    assert re.search(sentence, capsys.readouterr().err)
    assert not calls(away)
    assert not (away / 'work_dirs').exists()


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['test_cfg.x=1'], 'cannot be evaluated .*test_cfg.x is no setting'),
        (['knn:test_cfg.pool=max'], "pool is 'max'; set it to one of"),
        (['linear:lr=1'], 'has options of linear, and --tasks is knn'),
        (['randomness.seed=3', '--seeds', '0', '4'], '--seed is 4 and'),
        (['a=1', '--tasks', 'matches'], 'for tasks of evaluate.py, and'),
    ],
)
def test_options_of_the_evaluation_are_checked_first(
    away, capsys, words, sentence
):
    for name in ('train/a', 'train/b', 'val/a', 'val/b'):
        (away / 'data/demo' / name).mkdir(parents=True)
    options = ['--tasks', 'knn', '--evaluation-options', *words]
    with pytest.raises(SystemExit):
        main(['i', *options], tools=away)
    assert re.search(sentence, capsys.readouterr().err)
    assert not calls(away)
    assert not (away / 'work_dirs').exists()


def test_rows_without_loader_workers(away):
    for name in ('train/a', 'train/b', 'val/a', 'val/b'):
        (away / 'data/demo' / name).mkdir(parents=True)
    words = ['--cfg-options', 'train_dataloader.num_workers=0']
    words += ['--evaluation-options', 'test_dataloader.num_workers=0']
    main(['i', *words, '--tasks', 'knn'], tools=away)
    assert calls(away)


def test_every_packaged_row_is_known_and_described():
    rows = row_names()
    files = [
        file
        for name in ('siamese_im_row-i.py', 'siamese_im_rival-dino.py')
        for file in Path(config_path(name)).parent.glob('*.py')
    ]
    assert len(rows) == len(set(rows)) == len(files)
    assert rows[: len(PAPER_LINEAR)] == list(PAPER_LINEAR)
    assert parse_rows() == ['untrained', *PAPER_LINEAR]
    for row in rows:
        assert 10 < len(describe(row)) < 160, row


def test_the_method_has_its_name():
    words = ['siamese-im', 'dino', '--data', str(ROOT)]
    assert parse_args(words).rows == ['i', 'dino']


def parse_rows():
    return parse_args(['--data', str(ROOT)]).rows


@pytest.mark.shared
def test_papers_column_is_the_papers(shared):
    text = (shared / 'RESULTS.md').read_text().partition('Ablations')[2]
    linear = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        if len(cells) == 13 and cells[10][:1].isdigit():
            linear[cells[0]] = float(cells[10])
    names = {'mae': 'MAE', 'i': '(i) = default', 'mocov3': 'MoCo-v3 with mask'}
    assert {
        row: linear[names.get(row, f'({row})')] for row in PAPER_LINEAR
    } == PAPER_LINEAR


def test_rows_that_are_not_done_have_no_figures(tmp_path):
    assert collect(tmp_path) == {}
    results = {'untrained': {'knn': {'0': 1.0}}, 'k': {}}
    assert table(results).splitlines()[-1].endswith('| - | 72.0 |')
    assert len(draw(results).axes) == 1


@pytest.mark.slow
def test_a_row_by_the_real_tools(tmp_path):
    """Two epochs on a few scenes, and its figures."""
    make_demo_data(tmp_path / 'scenes', train=32, val=16, seed=0)
    done = run_tool(
        *['ablate.py', 'untrained', 'j'],
        *['--data', 'scenes', '--work-dir', 'rows', '--curves'],
        *['--tasks', 'knn,matches,matches-without-place,segmentation'],
        *['--cfg-options', 'train_cfg.max_epochs=2'],
        *['train_dataloader.batch_size=16', 'train_dataloader.num_workers=0'],
        'train_dataloader.persistent_workers=False',
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / 'rows' / 'results.json').read_text())
    accuracy = results['j']['knn']['0']
    assert 0 < accuracy <= 100
    assert (accuracy * 16 / 100) % 1 == pytest.approx(0, abs=1e-6)
    # Pairs of the method's views, not of the row's, which has one view.
    shares = [
        results[row][task]['0']
        for row in ('untrained', 'j')
        for task in ('matches', 'matches-without-place')
    ]
    assert len(set(shares)) == 4
    assert all(3 < share < 60 for share in shares)
    shares = [results[row]['segmentation']['0'] for row in ('untrained', 'j')]
    assert shares[0] != shares[1]
    assert all(1 < share < 60 for share in shares)
    points = json.loads((tmp_path / 'rows/j/seed0/curve.json').read_text())
    assert [(p['epoch'], p['images']) for p in points] == [(1, 32), (2, 64)]
    assert points[-1]['knn'] == accuracy
    # A measured point equals the figure of tools/evaluate.py.
    points = learning_curve(
        *(tmp_path / 'rows/j/seed0/pretraining', 'online', 64),
        *(tmp_path / 'scenes', 16, tmp_path / 'again.json'),
    )
    assert points[-1]['knn'] == pytest.approx(accuracy, abs=1e-4)
    page = (tmp_path / 'rows' / 'results.md').read_text()
    assert 'patches matched, *ours*' in page
    assert 'GFLOPs an image' in page
    with Image.open(tmp_path / 'rows' / 'curves.png') as picture:
        assert picture.width > picture.height


def test_matches_are_of_the_encoder_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    init_default_scope('mmpretrain')
    make_demo_data(tmp_path, train=1, val=8, seed=0)
    config = Config.fromfile(config_path('siamese_im_row-i.py'))
    untrained = config_path('siamese_im_row-i.py')
    share = matched_share(untrained, 'online', config, tmp_path, seed=3)
    set_random_seed(3)
    model = MODELS.build(config.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'run.pth')
    for branch in ('online', 'target'):
        file = str(tmp_path / 'run.pth')
        again = matched_share(file, branch, config, tmp_path, seed=0)
        assert again == share


def test_a_row_of_another_config_is_refused(away, capsys):
    main(['i', '--work-dir', 'rows'], tools=away)
    file = away / 'rows' / 'i' / 'seed0' / 'config.json'
    noted = json.loads(file.read_text())
    main(['i', '--work-dir', 'rows'], tools=away)  # the same config
    file.write_text(json.dumps(dict(noted, sha256='other')))
    with pytest.raises(SystemExit):
        main(['i', '--work-dir', 'rows'], tools=away)
    assert 'made by another config of the row i' in capsys.readouterr().err


def test_a_wrong_option_leaves_the_folder_free(away, capsys):
    words = ['i', '--work-dir', 'rows', '--cfg-options']
    with pytest.raises(SystemExit):
        main([*words, 'train_cfg.max_epochs'], tools=away)
    message = capsys.readouterr().err
    assert "'train_cfg.max_epochs' in the options" in message
    folder = away / 'rows' / 'i' / 'seed0'
    folder.mkdir(parents=True)  # no step was trained in it
    (away / 'rows' / 'settings.json').write_text('{}')
    (away / 'rows' / 'costs.json').write_text('{"of": "other options"}')
    main([*words, 'train_cfg.max_epochs=2'], tools=away)
    assert not (away / 'rows' / 'costs.json').exists()
