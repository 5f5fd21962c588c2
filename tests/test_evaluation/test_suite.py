"""One command for all the numbers: which configs, which images, one table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from simim_plugin import config_path
from simim_plugin.datasets.corruptions import make_corruptions
from simim_plugin.datasets.demo_data import make_demo_data
from simim_plugin.errors import SimimError
from simim_plugin.evaluation.protocols import ENCODERS, SCALES, TASKS
from simim_plugin.evaluation.suite import (
    Evaluation,
    _datasets,
    main,
    parse_args,
    table,
)

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
DEMO = 'siamese_im_vit-tiny-p8_demo.py'


@pytest.fixture(scope='module')
def demo(tmp_path_factory) -> Path:
    """A folder with small demo data and a pretraining checkpoint of it."""
    root = tmp_path_factory.mktemp('demo')
    make_demo_data(root / 'data' / 'demo', train=48, val=16)
    config = Config.fromfile(config_path(DEMO))
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), root / 'encoder.pth')
    return root


def evaluation(demo, *words) -> Evaluation:
    args = [str(demo / 'encoder.pth'), '--data', str(demo / 'data/demo')]
    if '--work-dir' not in words:
        args += ['--work-dir', str(demo / f'out{hash(words)}')]
    args += words
    return Evaluation(parse_args(args), TOOLS)


def test_every_task_of_every_scale_has_its_configs():
    for scale in SCALES.values():
        assert set(scale.configs) == set(TASKS)
        for names in scale.configs.values():
            for name in names:
                assert Path(config_path(f'siamese_im_vit-{name}.py')).is_file()
    for encoder in ENCODERS.values():
        if encoder.finetune is not None:
            config_path(f'siamese_im_vit-{encoder.finetune}.py')


@pytest.mark.parametrize('task', ['knn', 'linear', 'logistic', 'finetune'])
def test_images_come_from_the_named_folder(demo, task):
    run = evaluation(demo, '--seed', '3')
    (name,) = run._configs(task)
    config = run._config(name)
    roots = {dataset['data_root'] for dataset in _datasets(config._cfg_dict)}
    assert roots == {f'{demo}/data/demo/{part}' for part in ('train', 'val')}
    assert config.randomness.seed == 3


def test_options_go_where_they_belong(demo):
    words = ['--cfg-options', 'train_cfg.max_epochs=1', 'randomness.seed=5']
    run = evaluation(demo, *words)
    probe = run._config(run._configs('linear')[0])
    assert (probe.train_cfg.max_epochs, probe.randomness.seed) == (1, 5)
    knn = run._config(run._configs('knn')[0])
    assert 'train_cfg' not in knn
    assert knn.randomness.seed == 5


def test_cifar_is_read_from_folders_where_they_are_there(demo, tmp_path):
    (tmp_path / 'train').mkdir()
    run = evaluation(demo)
    run.data = tmp_path
    run.scale = SCALES['cifar10']
    (name,) = run._configs('logistic')
    config = run._config(name)
    train = config.test_cfg.train_dataloader.dataset
    assert train.type == 'LabelledFolder'
    assert train.data_root == str(tmp_path / 'train')
    assert config.test_dataloader.dataset.data_root == str(tmp_path / 'val')
    assert train.pipeline[0].type == 'LoadRGBImage'


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('key', ENCODERS, ids=str)
def test_every_config_fits_the_encoder(demo, key, task):
    width, depth, patch = key
    run = evaluation(demo)
    run.encoder = ENCODERS[key]
    run.scale = SCALES[run.encoder.scale]
    for name in run._configs(task):
        config = run._config(name)
        with torch.device('meta'):
            model = MODELS.build(config.model)
        kernel = model.backbone.patch_embed.projection.weight
        assert kernel.shape == (width, 3, patch, patch)
        assert len(model.backbone.layers) == depth
        if task == 'linear':
            assert config.model.backbone.frozen_stages == depth
        if model.with_head:
            assert model.head.fc.in_features == width


def test_unknown_encoder_and_task_and_data(demo, tmp_path):
    with pytest.raises(SimimError, match='no task called probing; --tasks'):
        parse_args(['a.pth', '--tasks', 'knn,probing'])
    with pytest.raises(SimimError, match=r'no images at .*train/CLASS'):
        evaluation(demo, '--data', str(tmp_path / 'none'))
    state = torch.load(demo / 'encoder.pth')['state_dict']
    blocks = {k: v for k, v in state.items() if '.layers.3.' not in k}
    torch.save(dict(state_dict=blocks), tmp_path / 'three.pth')
    args = parse_args([str(tmp_path / 'three.pth'), '--tasks', 'knn'])
    with pytest.raises(SimimError, match='width 128, 3 blocks and patches of'):
        Evaluation(args, TOOLS)


def test_robustness_needs_a_classifier(demo, capsys):
    words = [str(demo / 'encoder.pth'), '--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(demo / 'r'), '--tasks', 'robustness']
    with pytest.raises(SystemExit) as end:
        main(words, TOOLS)
    assert end.value.code == 1
    assert 'add finetune to --tasks' in capsys.readouterr().err


def test_folder_of_another_evaluation_is_refused(demo):
    evaluation(demo, '--work-dir', str(demo / 'one'))
    evaluation(demo, '--work-dir', str(demo / 'one'), '--tasks', 'linear')
    with pytest.raises(SimimError, match='choose another --work-dir'):
        evaluation(demo, '--work-dir', str(demo / 'one'), '--seed', '1')


def test_untrained_encoder_of_a_config(demo):
    words = [DEMO, '--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(demo / 'untrained')]
    run = Evaluation(parse_args(words), TOOLS)
    assert run.encoder == ENCODERS[128, 4, 8]
    # The fixture's encoder is untrained as well, of the same seed.
    found = torch.load(run.checkpoint)['state_dict']
    expected = torch.load(demo / 'encoder.pth')['state_dict']
    assert all(torch.equal(found[k], v) for k, v in expected.items())


def test_table_marks_whose_numbers_are_whose():
    results = dict(
        arch='base',
        checkpoint='a.pth',
        sha256='0123456789',
        seed=0,
        cfg_options={},
        tasks=dict(
            linear=dict(
                metrics={'accuracy/top1': 12.345, 'accuracy/top5': None},
                configs=['siamese_im_vit-base-p16_linear'],
                plugin='0.1.0 abc',
                date='2026-11-21',
            )
        ),
    )
    rows = table(results).splitlines()
    assert rows[0].startswith('| task | metric | *ours* | *paper* | config |')
    assert rows[2] == (
        '| linear | accuracy/top1 | 12.35 | 78.0 | '
        'siamese_im_vit-base-p16_linear | 0.1.0 abc | 2026-11-21 |'
    )
    assert rows[3].startswith('| linear | accuracy/top5 | - | - |')
    # Not beside an encoder that the paper's number is not of.
    assert '78.0' not in table(dict(results, arch='large'))


@pytest.mark.slow
def test_all_tasks_of_the_demo(demo):
    """Each task once, small; then again, from what is there."""
    make_corruptions(demo / 'data/demo/val', demo / 'data/demo-c')
    command = [
        sys.executable,
        str(TOOLS / 'evaluate.py'),
        'encoder.pth',
        f'--tasks={",".join(TASKS)}',
        '--work-dir=all',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=16',
        'train_dataloader.num_workers=0',
        'param_scheduler.warmup=0',
    ]
    first = subprocess.run(command, cwd=demo, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    results = json.loads((demo / 'all/results.json').read_text())
    assert list(results['tasks']) == list(TASKS)
    metrics = {k: v['metrics'] for k, v in results['tasks'].items()}
    assert 0 <= metrics['knn']['knn/top1_k20'] <= 100
    assert 0 <= metrics['linear']['accuracy/top1'] <= 100
    corruptions = metrics['robustness']
    assert len([name for name in corruptions if 'demo-c/' in name]) == 16
    printed = (demo / 'all/results.md').read_text()
    assert printed.count('\n| ') == sum(map(len, metrics.values()))
    command[3] = '--tasks=linear'
    again = subprocess.run(command, cwd=demo, capture_output=True, text=True)
    assert again.stdout.count('done before') == 1
    # The other tasks of the run stay in the table.
    assert json.loads((demo / 'all/results.json').read_text()) == results
