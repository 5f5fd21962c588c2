"""The evaluation command: its configs, its images, its table."""

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator as MMEvaluator
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, METRICS, MODELS
from mmpretrain.structures import DataSample
from PIL import Image

from simim_plugin import __version__, config_path
from simim_plugin.checkpoint import (
    load_backbone,
    load_weights,
    read_weights,
)
from simim_plugin.checkpoint.names import to_timm
from simim_plugin.commands import evaluate as suite
from simim_plugin.commands import running, train
from simim_plugin.commands import test as testing
from simim_plugin.commands.evaluate import (
    Evaluation,
    _commit,
    main,
    parse_args,
    table,
)
from simim_plugin.commands.protocols import (
    ENCODERS,
    SCALES,
    TASKS,
    Encoder,
    dictionaries,
    find_encoder,
    fit_model,
)
from simim_plugin.datasets.corruptions import make_corruptions
from simim_plugin.datasets.robustness import (
    CORRUPTIONS,
    SEVERITIES,
    read_wnids,
)
from simim_plugin.demo.data import make_demo_data
from simim_plugin.errors import SimimError
from simim_plugin.files import last_checkpoint
from simim_plugin.recipes import machine
from simim_plugin.settings import check_settings, fit_channels
from simim_plugin.vit.arches import BASE, LARGE, MICRO, known_encoder

from ..test_checkpoint.families import TIMM, saved
from ..test_checkpoint.helpers import HEADS, images, our_vit, scramble, wrap
from ..test_recipes.data import class_folders
from ..training_processes import TOOLS, run_tool

DEMO = 'siamese_im_vit-micro-p8_demo.py'


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
    config = run._config(task, name)
    roots = {
        dataset['data_root']
        for dataset in dictionaries(config._cfg_dict, 'data_root')
    }
    assert roots == {f'{demo}/data/demo/{part}' for part in ('train', 'val')}
    assert config.randomness.seed == 3


def test_options_go_where_they_belong(demo):
    words = ['--tasks', 'knn,linear', '--cfg-options']
    words += ['train_cfg.max_epochs=1', 'randomness.seed=5']
    run = evaluation(demo, *words)
    probe = run._config('linear', run._configs('linear')[0])
    assert (probe.train_cfg.max_epochs, probe.randomness.seed) == (1, 5)
    knn = run._config('knn', run._configs('knn')[0])
    assert 'train_cfg' not in knn
    assert knn.randomness.seed == 5
    # The printed seed is that of the runs.
    assert run.settings['seed'] == 5
    assert 'randomness.seed' not in run.settings['cfg_options']


def test_options_that_come_too_late_are_named(demo, tmp_path, monkeypatch):
    """The config has used the pipeline when the option changes its name."""
    words = ['--work-dir', str(tmp_path), '--cfg-options']
    words += ['test_pipeline.2.size=99', 'test_dataloader.num_workers=0']
    run = evaluation(demo, *words)
    (name,) = run._configs('knn')
    (warning,) = run._late_options(run._config('knn', name), 'knn')
    assert warning.startswith('The change of test_pipeline by an option')
    words[-2] = 'test_dataloader.batch_size=4'
    run = evaluation(demo, '--work-dir', str(tmp_path / 'in'), *words[2:])
    assert run._late_options(run._config('knn', name), 'knn') == []


@pytest.mark.parametrize('text', ['abc', '-1', '4294967296', '1.5'])
def test_seeds_of_the_options(text):
    words = ['a.pth', '--cfg-options', f'randomness.seed={text}']
    with pytest.raises(SimimError, match=f': {text} is not a whole number fr'):
        parse_args(words)
    words[-1] = 'randomness.seed=4'
    assert parse_args([*words, '--seed', '4']).seed == 4
    with pytest.raises(SimimError, match=r'--seed is 3 and .* leave out one'):
        parse_args([*words, '--seed', '3'])


def test_options_of_one_task(demo):
    words = ['--tasks', 'knn,linear', '--cfg-options']
    run = evaluation(demo, *words, 'knn:test_cfg.pool=cls')
    knn = run._config('knn', run._configs('knn')[0])
    assert knn.test_cfg.pool == 'cls'
    probe = run._config('linear', run._configs('linear')[0])
    assert 'pool' not in probe.test_cfg
    with pytest.raises(SimimError, match='has options of knn, and --tasks'):
        more = ('knn:test_cfg.a=1', 'knn:test_cfg.b=1')
        evaluation(demo, '--tasks', 'linear', *words[2:], *more)


def test_options_of_later_tasks_are_checked_first(demo):
    words = ['--tasks', 'knn,linear', '--cfg-options']
    run = evaluation(demo, *words, 'linear:optim_wrapper.optimizer.lrr=1')
    with pytest.raises(SimimError, match='lrr is no setting of ProbeLARS'):
        run.run()
    assert not list(run.args.work_dir.glob('*/config.py'))


@pytest.mark.parametrize('key', ['train_cfg.max_epochs', 'tset_cfg.pool'])
def test_options_that_no_task_has_are_refused(demo, key):
    with pytest.raises(SimimError, match=f'No config of knn has {key}; cor'):
        evaluation(demo, '--cfg-options', f'{key}=1')


@pytest.mark.parametrize('own', [False, True], ids=['packaged', 'own'])
def test_options_that_the_named_task_lacks_are_refused(demo, tmp_path, own):
    words = ['--tasks', 'knn,linear', '--work-dir', str(tmp_path / 'out')]
    if own:
        data = class_folders(tmp_path / 'data', broken=False)
        words += ['--data', str(data)]
    words.append('--cfg-options')
    with pytest.raises(
        SimimError, match=r'No config of knn has train_cfg\.a;'
    ):
        evaluation(demo, *words, 'knn:train_cfg.a=1')
    assert not (tmp_path / 'out').exists()
    run = evaluation(demo, *words, 'linear:train_cfg.max_epochs=7')
    config = run._config('linear', *run._configs('linear'))
    assert config.train_cfg.max_epochs == 7


def test_cifar_is_read_from_folders_where_they_are_there(demo, tmp_path):
    (tmp_path / 'train').mkdir()
    run = evaluation(demo)
    run.data = tmp_path
    run.scale = SCALES['cifar10']
    (name,) = run._configs('logistic')
    config = run._config('logistic', name)
    train = config.test_cfg.train_dataloader.dataset
    assert train.type == 'LabelledFolder'
    assert train.data_root == str(tmp_path / 'train')
    assert config.test_dataloader.dataset.data_root == str(tmp_path / 'val')
    assert train.pipeline[0].type == 'LoadRGBImage'


def test_photographs_have_the_size_of_an_encoder_of_cifar(demo, tmp_path):
    noise = np.random.default_rng(0)
    for part, name in product(('train', 'val'), ('a', 'b')):
        folder = tmp_path / part / name
        folder.mkdir(parents=True)
        for k, shape in enumerate([(32, 32, 3), (60, 90, 3)]):
            pixels = noise.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(folder / f'{k}.png')
    run = evaluation(demo)
    run.data = tmp_path
    run.scale = SCALES['cifar10']
    for task in ('knn', 'linear'):
        (name,) = run._configs(task)
        dataset = DATASETS.build(
            run._config(task, name).test_dataloader.dataset
        )
        assert {dataset[k]['inputs'].shape for k in range(4)} == {(3, 32, 32)}
        with Image.open(dataset.get_data_info(0)['img_path']) as image:
            kept = torch.tensor(np.asarray(image)).permute(2, 0, 1)
        assert torch.equal(dataset[0]['inputs'], kept)


def test_robustness_is_of_the_classifier_that_was_tuned(demo, tmp_path):
    """And of the given one only if nothing was tuned."""
    run = evaluation(demo, '--work-dir', str(tmp_path))
    run.fine_tuned = True
    run.args.tasks = ['robustness']
    assert run._classifier() == run.checkpoint
    training = tmp_path / 'finetune' / 'training'
    training.mkdir(parents=True)
    (training / 'last.pth').touch()
    (training / 'last_checkpoint').write_text('last.pth')
    run.args.tasks = ['finetune', 'robustness']
    assert run._classifier() == training / 'last.pth'
    (tmp_path / 'finetune' / 'result.json').touch()
    run.args.tasks = ['robustness']
    assert run._classifier() == training / 'last.pth'


def test_images_of_ones_own_get_a_config_of_their_own(demo, tmp_path):
    """Other classes, or no division into train/ and val/."""
    alone = class_folders(tmp_path / 'alone', broken=False)
    both = tmp_path / 'both'
    for part in ('train', 'val'):
        class_folders(both / part, broken=False)
    tasks = ['--tasks', 'knn,linear,logistic,finetune']
    assert not evaluation(demo, *tasks).own
    for folder, own in (
        (alone, {'knn', 'linear', 'logistic', 'finetune'}),
        (both, {'linear', 'finetune'}),  # three classes, the demo has eight
        (both / 'train', {'knn', 'linear', 'logistic', 'finetune'}),
    ):
        place = ['--data', str(folder), '--work-dir', str(tmp_path / 'out')]
        run = evaluation(demo, *tasks, *place, '--seed', '1')
        assert run.own == own, folder
        assert run._config('linear', 'of its own').randomness.seed == 1
        (tmp_path / 'out' / 'settings.json').unlink()
    with pytest.raises(SimimError, match='leave robustness out of --tasks'):
        evaluation(demo, '--tasks', 'finetune,robustness', *place)


def test_images_of_ones_own_are_divided_and_evaluated(demo, tmp_path):
    data = class_folders(tmp_path / 'my data')
    work = tmp_path / 'out'
    words = ['--data', str(data), '--work-dir', str(work), '--seed', '2']
    words += ['--val-share', '0.3']
    done = run_tool('evaluate.py', demo / 'encoder.pth', *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert '14 training and 6 test pictures of 3 classes' in done.stdout
    results = json.loads((work / 'results.json').read_text())
    assert results['val_share'] == 0.3
    right = results['tasks']['knn']['metrics']['knn/top1_k1'] * 6 / 100
    assert right == pytest.approx(round(right), abs=1e-4)
    assert 'configure.py --method knn' in (work / 'results.md').read_text()
    run = evaluation(demo, '--tasks', 'linear', *words)
    config = run._config('linear', *run._configs('linear'))
    assert config.model.head.num_classes == 3
    assert config.randomness.seed == 2
    parts = [
        (work / task / f'own_{part}.txt').read_text().split('\n')[:-1]
        for part in ('train', 'val')
        for task in ('knn', 'linear')
    ]
    assert parts[0] == parts[1] and parts[2] == parts[3]
    assert len({*parts[0], *parts[2]}) == 20


@pytest.mark.parametrize('branch', ['online', 'target'])
def test_a_begun_training_keeps_its_config(
    demo, tmp_path, monkeypatch, branch
):
    """Though the free memory gives another batch; its weights may move."""
    data = class_folders(tmp_path / 'data', broken=False)
    files = [tmp_path / f'{name}.pth' for name in ('a', 'b')]
    weights = [str(shutil.copy(demo / 'encoder.pth', file)) for file in files]
    words = ['--data', str(data), '--tasks', 'finetune', '--branch', branch]
    words += ['--work-dir', str(tmp_path / 'out')]

    def config(file, free):
        monkeypatch.setattr(machine, '_available', lambda: free)
        run = Evaluation(parse_args([file, *words]), TOOLS)
        return run._config('finetune', *run._configs('finetune'))

    first = config(weights[0], 64 * 2**30)
    small = config(weights[0], 2**30)
    batches = [c.train_dataloader.batch_size for c in (first, small)]
    assert batches[0] > batches[1]
    training = tmp_path / 'out' / 'finetune' / 'training'
    training.mkdir()
    (training / 'epoch_1.pth').touch()
    files[0].unlink()
    again = config(weights[1], 64 * 2**30)
    assert again.train_dataloader.batch_size == batches[1]
    source = again.model.backbone.pretrained
    assert (source if branch == 'online' else source.file) == weights[1]


@pytest.fixture
def in_process(monkeypatch):
    """Start the scripts of an evaluation in this process."""
    commands = {'train.py': train.main, 'test.py': testing.main}
    for module in (running, suite):
        monkeypatch.setattr(
            module,
            'run_script',
            lambda script, words, *_: commands[script.name](words),
        )


@pytest.mark.parametrize('own', [False, True], ids=['packaged', 'own'])
@pytest.mark.usefixtures('in_process')
def test_tasks_of_the_same_features_share_a_test(
    demo, tmp_path, monkeypatch, capsys, own
):
    """The figures are those of the tasks run one by one."""
    tested = []
    run = suite.run_script
    monkeypatch.setattr(
        suite, 'run_script', lambda *args: (tested.append(args), run(*args))
    )
    data = demo / 'data/demo'
    if own:
        data = class_folders(tmp_path / 'data', broken=False)
    words = [str(demo / 'encoder.pth'), '--data', str(data)]

    def figures(folder, tasks, *options):
        to = ['--work-dir', str(tmp_path / folder), '--tasks', tasks]
        main([*words, *to, '--cfg-options', *NO_WORKERS, *options])
        results = json.loads((tmp_path / folder / 'results.json').read_text())
        assert [*results['tasks']] == tasks.split(',')
        return {
            task: (found['metrics'], [p['config'] for p in found['parts']])
            for task, found in results['tasks'].items()
        }

    both = figures('both', 'knn,logistic')
    assert len(tested) == 1
    assert both == figures('one', 'knn') | figures('other', 'logistic')
    assert 'and logistic, by the same features' in capsys.readouterr().out
    # What is done stays, and other features are computed.
    before = len(tested)
    assert figures('one', 'knn,logistic') == both
    assert len(tested) == before + 1
    figures('pools', 'knn,logistic', 'knn:test_cfg.pool=cls')
    assert len(tested) == before + 3


NO_WORKERS = [
    f'{loader}.num_workers=0'
    for loader in ('test_dataloader', 'test_cfg.train_dataloader')
] + ['test_dataloader.persistent_workers=False']


@pytest.mark.usefixtures('in_process')
def test_a_list_of_ones_own_is_evaluated_to_the_end(demo, tmp_path):
    """Every task of frozen and tuned encoders, with the list's labels."""
    data = class_folders(tmp_path / 'my data', broken=False)
    files = sorted(data.rglob('*.png'))
    labels = {str(file): f'{file.parent.name} too' for file in files}
    listed = tmp_path / 'my list.csv'
    listed.write_text(
        'picture,species\n'
        + ''.join(f'{file},{label}\n' for file, label in labels.items())
    )
    tasks = ('knn', 'linear', 'logistic', 'finetune')
    work = tmp_path / 'out'
    words = [demo / 'encoder.pth', '--data', listed, '--work-dir', work]
    words += ['--tasks', ','.join(tasks), '--seed', '3', '--cfg-options']
    words += ['train_cfg.max_epochs=1', 'param_scheduler.warmup=0']
    words += ['train_dataloader.num_workers=0']
    words += ['test_dataloader.num_workers=0']
    main([*map(str, words)])
    results = json.loads((work / 'results.json').read_text())['tasks']
    assert [*results] == [task for task in TASKS if task in tasks]
    lists = [(work / 'knn' / f'own_{p}.txt').read_text() for p in PARTS]
    tested = lists[1].splitlines()
    for task in tasks:
        metrics = results[task]['metrics']
        (top1,) = (v for k, v in metrics.items() if k in TOP1)
        right = top1 * len(tested) / 100
        assert right == pytest.approx(round(right), abs=1e-3), task
    classes = (work / 'knn' / 'own_classes.txt').read_text().splitlines()
    assert classes == sorted({*labels.values()})
    for line in ''.join(lists).splitlines():
        name, label = line.rsplit(maxsplit=1)
        assert labels[str(data / name)] == classes[int(label)]
    assert ''.join(lists).count('\n') == len(files)
    for part, text in zip(PARTS, lists, strict=True):
        again = (work / 'finetune' / f'own_{part}.txt').read_text()
        assert again == text


PARTS = ('train', 'val')
TOP1 = ('knn/top1_k1', 'accuracy/top1', 'logistic/top1')


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize(
    'key', [*ENCODERS, (192, 12, 16), (384, 12, 16), (768, 12, 14)], ids=str
)
def test_every_config_fits_the_encoder(demo, key, task):
    width, depth, patch = key
    run = evaluation(demo)
    run.encoder = ENCODERS.get(key, Encoder())
    run.scale = SCALES[run.encoder.scale]
    run.options = dict(arch=known_encoder(width, depth).arch, patch_size=patch)
    for name in run._configs(task):
        config = run._config(task, name)
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
    words = [str(tmp_path / 'three.pth'), '--tasks', 'knn']
    words += ['--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(tmp_path / 'three')]
    with pytest.raises(SimimError, match=r'128 channels.*pass --num-heads'):
        Evaluation(parse_args(words), TOOLS)
    run = Evaluation(parse_args([*words, '--num-heads', '4']), TOOLS)
    assert run.encoder.scale == 'in1k'
    assert run.options['arch']['num_layers'] == 3


@pytest.mark.parametrize('channels', [1, 4, 5])
def test_other_channels_need_their_statistics(demo, tmp_path, channels):
    file = tmp_path / 'vit.pth'
    vit = our_vit(arch=MICRO.arch, patch_size=8, in_channels=channels)
    torch.save(vit.state_dict(), file)
    words = [str(file), '--work-dir', str(tmp_path / 'out')]
    words += ['--data', str(demo / 'data/demo'), '--cfg-options']
    sentence = f'{channels} channels.*--cfg-options model.data_preproc.*std='
    for given in (['randomness.seed=1'], ['model.data_preprocessor.mean=[1]']):
        with pytest.raises(SimimError, match=sentence):
            Evaluation(parse_args([*words, *given]), TOOLS)
    values = str([1.0] * channels)
    words += [f'model.data_preprocessor.{k}={values}' for k in ('mean', 'std')]
    run = Evaluation(parse_args(words), TOOLS)
    config = run._config('knn', *run._configs('knn'))
    assert config.model.backbone.in_channels == channels
    assert config.model.data_preprocessor.mean == [1.0] * channels
    fit_channels(config)
    first = config.test_dataloader.dataset.pipeline[0]
    assert first == dict(type='LoadRGBImage', channels=channels)


@pytest.mark.parametrize(
    ('channels', 'classes'), [(1, 8), (4, 2), (5, 8)], ids=str
)
@pytest.mark.usefixtures('in_process')
def test_images_of_other_channels_are_evaluated(
    tmp_path, capsys, channels, classes
):
    """The demo's head has eight classes; others get a config of their own."""
    draw = np.random.default_rng(0)
    for part, k, number in product(('train', 'val'), range(classes), range(2)):
        folder = tmp_path / 'data' / part / f'class{k}'
        folder.mkdir(parents=True, exist_ok=True)
        levels = draw.integers(0, 255, (40, 48, channels), np.uint8)
        levels[..., k % channels] = 20 * k
        file = folder / f'{number}.{"png" if channels < 5 else "tif"}'
        if channels < 5:
            Image.fromarray(levels.squeeze()).save(file)
        else:
            how = dict(photometric='minisblack', planarconfig='contig')
            tifffile.imwrite(file, levels, **how)
    vit = our_vit(arch=MICRO.arch, patch_size=8, in_channels=channels)
    torch.save(vit.state_dict(), tmp_path / 'vit.pth')
    values = [str([value] * channels) for value in (100.0, 50.0)]
    work = tmp_path / 'out'
    words = [tmp_path / 'vit.pth', '--data', tmp_path / 'data']
    words += ['--work-dir', work, '--tasks', 'linear,finetune']
    words += ['--cfg-options', 'train_cfg.max_epochs=1']
    words += ['param_scheduler.warmup=0', 'train_dataloader.batch_size=4']
    words += ['optim_wrapper.accumulative_counts=1']
    words += [f'{part}_dataloader.num_workers=0' for part in ('train', 'val')]
    words += ['test_dataloader.num_workers=0']
    words += [f'model.data_preprocessor.mean={values[0]}']
    words += [f'model.data_preprocessor.std={values[1]}']
    main([*map(str, words)])
    means, stds = (' '.join([x] * channels) for x in ('100.0', '50.0'))
    line = f'is read as SiameseIM: mean of the patches, mean {means}, std '
    assert line + stds in capsys.readouterr().out
    results = json.loads((work / 'results.json').read_text())
    for task in ('linear', 'finetune'):
        top1 = results['tasks'][task]['metrics']['accuracy/top1']
        right = top1 * 2 * classes / 100
        assert right == pytest.approx(round(right), abs=1e-3)
        state = torch.load(
            last_checkpoint(work / task / 'training'), weights_only=False
        )['state_dict']
        name = 'backbone.patch_embed.projection.weight'
        kernels = vit.state_dict()[name.removeprefix('backbone.')]
        assert state[name].shape[1] == channels
        assert torch.equal(state[name], kernels) == (task == 'linear')


def test_a_folder_without_images_of_cifar10(demo, tmp_path):
    (tmp_path / 'data').mkdir()
    file = tmp_path / 'vit.pth'
    vit = our_vit(arch=MICRO.arch, patch_size=4)
    torch.save(vit.state_dict(), file)
    words = [str(file), '--work-dir', str(tmp_path / 'out')]
    words += ['--data', str(tmp_path / 'data')]
    with pytest.raises(SimimError, match='cifar-10-batches-py/, or train/'):
        Evaluation(parse_args(words), TOOLS)
    (tmp_path / 'data' / 'train').mkdir()
    Evaluation(parse_args(words), TOOLS)


def test_robustness_needs_a_classifier(demo, capsys):
    words = [str(demo / 'encoder.pth'), '--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(demo / 'r'), '--tasks', 'robustness']
    with pytest.raises(SystemExit) as end:
        main(words, TOOLS)
    assert end.value.code == 1
    assert 'add finetune to --tasks' in capsys.readouterr().err


def test_options_without_an_effect_are_refused(demo, tmp_path):
    for option, words in (
        ('--robustness-data', '--tasks has no robustness'),
        ('--val-share', 'the images are divided already'),
    ):
        value = str(tmp_path) if option == '--robustness-data' else '0.3'
        with pytest.raises(
            SimimError, match=f'{option} has no effect, since {words}'
        ):
            evaluation(demo, '--tasks', 'knn', option, value)


def test_robustness_of_two_classifiers_needs_two_folders(demo, tmp_path):
    """That of the given file is none of the one that finetune trains."""
    state = torch.load(demo / 'encoder.pth')['state_dict']
    state['head.fc.weight'] = torch.zeros(8, 128)
    torch.save(dict(state_dict=state), tmp_path / 'tuned.pth')
    words = [str(tmp_path / 'tuned.pth'), '--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(tmp_path / 'out'), '--tasks']
    run = Evaluation(parse_args([*words, 'knn']), TOOLS)
    done = run._result('robustness', *run._packaged('robustness'))
    done.parent.mkdir(parents=True)
    done.touch()
    for tasks in ('finetune,robustness', 'finetune'):
        with pytest.raises(SimimError, match='finetune trains another; cho'):
            Evaluation(parse_args([*words, tasks]), TOOLS)
    run._result('finetune').parent.mkdir()
    run._result('finetune').touch()
    Evaluation(parse_args([*words, 'finetune,robustness']), TOOLS)


def test_a_classifier_of_ones_own_images_has_no_robustness(demo, tmp_path):
    data = class_folders(tmp_path / 'data', broken=False)
    words = ['--work-dir', str(tmp_path / 'out'), '--data', str(data)]
    run = evaluation(demo, *words, '--tasks', 'finetune')
    run._result('finetune').parent.mkdir()
    run._result('finetune').touch()
    with pytest.raises(SimimError, match='leave robustness out of --tasks'):
        evaluation(demo, *words, '--tasks', 'robustness')


def test_robustness_data_is_looked_for_before_fine_tuning(demo, tmp_path):
    words = ['--tasks', 'finetune,robustness']
    words += ['--robustness-data', str(tmp_path)]
    with pytest.raises(SimimError, match=r'no CorruptedFolder at .*demo-c;'):
        evaluation(demo, *words)
    for corruption, severity in product(CORRUPTIONS, SEVERITIES):
        if (corruption, severity) != ('fog', 3):
            folder = tmp_path / 'demo-c' / corruption / str(severity)
            folder.mkdir(parents=True)
    with pytest.raises(SimimError, match=r'lacks 1 folder \(fog/3\)'):
        evaluation(demo, *words)
    (tmp_path / 'demo-c' / 'fog' / '3').mkdir()
    evaluation(demo, *words)
    run = evaluation(demo)
    run.args = parse_args(['a.pth', *words])
    run.encoder = Encoder()
    run.scale = SCALES['in1k']
    with pytest.raises(SimimError, match='no ImageNetA at'):
        run._check_data()
    for wnid in read_wnids('imagenet_a')[1:]:
        (tmp_path / 'imagenet-a' / wnid).mkdir(parents=True)
    with pytest.raises(SimimError, match='lacks 1 class folder'):
        run._check_data()


def test_folder_of_another_evaluation_is_refused(demo):
    place = ['--work-dir', str(demo / 'one')]
    evaluation(demo, *place)
    evaluation(demo, *place, '--tasks', 'linear')
    for other in (
        ['--seed', '1'],
        ['--branch', 'target'],
        ['--cfg-options', 'test_cfg.classifier.ks=(1,3)'],
    ):
        with pytest.raises(SimimError, match='choose another --work-dir'):
            evaluation(demo, *place, *other)
    assert not (demo / 'one' / 'target.pth').exists()
    again = ['--work-dir', str(demo / 'two'), '--cfg-options']
    again.append('test_cfg.classifier.ks=(1,3)')
    for _ in range(2):
        evaluation(demo, *again)


@pytest.mark.parametrize('task', ['knn', 'robustness'])
def test_a_relative_folder_is_that_of_the_current_directory(
    demo, tmp_path, monkeypatch, task
):
    monkeypatch.setattr(Evaluation, '_check_data', lambda self: None)
    option = '--robustness-data' if task == 'robustness' else '--data'
    words = [str(demo / 'encoder.pth'), '--work-dir', str(tmp_path / 'out')]
    words += ['--tasks', task, option, 'here']
    for place in ('a', 'b'):
        (tmp_path / place / 'here').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'a')
    Evaluation(parse_args(words), TOOLS)
    words[-1] = str(tmp_path / 'a' / 'here')
    Evaluation(parse_args(words), TOOLS)
    # A folder of an earlier version
    file = tmp_path / 'out' / 'settings.json'
    settings = json.loads(file.read_text())
    (key,) = (key for key, value in settings.items() if value == words[-1])
    file.write_text(json.dumps(settings | {key: 'here'}))
    Evaluation(parse_args(words), TOOLS)
    words[-1] = 'here'
    monkeypatch.chdir(tmp_path / 'b')
    with pytest.raises(SimimError, match=rf'{key}; see .*--work-dir'):
        Evaluation(parse_args(words), TOOLS)


def test_robustness_data_is_a_setting(demo, monkeypatch):
    monkeypatch.setattr(Evaluation, '_check_data', lambda self: None)
    place = ['--work-dir', str(demo / 'three')]
    evaluation(demo, *place)  # which reads none of it
    words = [*place, '--tasks', 'finetune,robustness', '--robustness-data']
    evaluation(demo, *words, 'here')
    evaluation(demo, *place)
    with pytest.raises(SimimError, match='choose another --work-dir'):
        evaluation(demo, *words, 'there')


def test_untrained_encoder_of_another_config_is_not_taken(demo, tmp_path):
    file = tmp_path / 'mine.py'
    words = [str(file), '--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(tmp_path / 'out')]
    base = f'_base_ = {config_path(DEMO)!r}\n'
    file.write_text(base)
    Evaluation(parse_args(words), TOOLS)
    file.write_text(base + 'model = dict(backbone=dict(patch_size=4))')
    with pytest.raises(SimimError, match='choose another --work-dir'):
        Evaluation(parse_args(words), TOOLS)
    file.write_text(base)
    Evaluation(parse_args(words), TOOLS)


@pytest.mark.parametrize('task', ['knn', 'linear', 'logistic', 'finetune'])
def test_a_norm_after_the_last_block_is_kept_for_probes(demo, tmp_path, task):
    settings = dict(arch=MICRO.arch, img_size=64)
    vit = our_vit(**settings, final_norm=True)
    state = to_timm(wrap(vit.state_dict(), 'backbone.'))
    torch.save(state, tmp_path / 'mae.pth')
    words = [str(tmp_path / 'mae.pth'), '--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(tmp_path / 'out')]
    run = Evaluation(parse_args(words), TOOLS)
    (name,) = run._configs(task)
    model = MODELS.build(run._config(task, name).model)
    load_backbone(model.backbone, tmp_path / 'mae.pth')
    frozen = task != 'finetune'
    assert model.backbone.final_norm is frozen
    if frozen:
        assert torch.equal(model.backbone.ln1.weight, vit.ln1.weight)
    config = evaluation(demo)._config(task, name)  # its file has none
    assert not config.model.backbone.get('final_norm', False)


def test_the_other_branch(demo):
    config = Config.fromfile(config_path(DEMO))
    config.model.backbone.img_size, config.model.neck.grid = 64, (8, 8)
    model = MODELS.build(config.model)
    scramble(model)
    torch.save(dict(state_dict=model.state_dict()), demo / 'moved.pth')
    words = [str(demo / 'moved.pth'), '--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(demo / 'branch'), '--branch', 'target']
    run = Evaluation(parse_args(words), TOOLS)
    other = MODELS.build(run._config('knn', run._configs('knn')[0]).model)
    load_weights(other, run.checkpoint)
    target = model.target['backbone'].state_dict()
    for name, value in other.backbone.state_dict().items():
        assert torch.equal(value, target[name]), name


@pytest.mark.parametrize('branch', ['online', 'teacher'])
def test_either_branch_is_read_as_its_family_is(
    demo, tmp_path, monkeypatch, branch
):
    """On images of one's own, too, whose config reads the file again."""
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    config = Config.fromfile(config_path('siamese_im_rival-dino.py'))
    model = scramble(MODELS.build(config.model))
    file = tmp_path / 'dino.pth'
    torch.save(dict(state_dict=model.state_dict()), file)
    data = class_folders(tmp_path / 'data', broken=False)
    words = [str(file), '--data', str(data), '--branch', branch]
    words += ['--tasks', 'knn,linear,logistic']
    run = Evaluation(
        parse_args([*words, '--work-dir', str(tmp_path / 'out')]), TOOLS
    )
    assert {*run.args.tasks} == run.own
    knn, linear, logistic = (
        run._config(task, *run._configs(task)) for task in run.args.tasks
    )
    assert knn.test_cfg.pool == logistic.test_cfg.pool == 'cls'
    assert linear.model.backbone.out_type == 'cls_token'
    wanted = model.target['backbone'] if branch == 'teacher' else None
    wanted = (wanted or model.backbone).state_dict()
    probe = MODELS.build(linear.model)
    probe.backbone.init_weights()  # reads `pretrained`
    frozen = MODELS.build(knn.model)
    load_weights(frozen, run.checkpoint)
    for name in ('layers.0.attn.qkv.weight', 'ln1.weight'):
        for backbone in (probe.backbone, frozen.backbone):
            assert torch.equal(backbone.state_dict()[name], wanted[name])


def test_untrained_encoder_of_a_config(demo):
    words = [DEMO, '--data', str(demo / 'data/demo')]
    words += ['--work-dir', str(demo / 'untrained')]
    run = Evaluation(parse_args(words), TOOLS)
    assert run.encoder == ENCODERS[128, 4, 8]
    # The fixture's encoder is untrained as well, of the same seed.
    found = torch.load(run.checkpoint)['state_dict']
    expected = torch.load(demo / 'encoder.pth')['state_dict']
    assert all(torch.equal(found[k], v) for k, v in expected.items())


PLAIN_BASE = dict(arch=BASE.arch, patch_size=16, norm_cfg=dict(type='LN'))
RESULTS = dict(
    encoder=PLAIN_BASE,
    names='MMPretrain',
    checkpoint='a.pth',
    branch='online',
    sha256='0123456789',
    seed=0,
    cfg_options={},
    tasks=dict(
        linear=dict(
            parts=[
                dict(
                    metrics={'accuracy/top1': 12.345, 'accuracy/top5': None},
                    config='siamese_im_vit-base-p16_linear',
                    plugin='0.1.0 abc',
                    date='2026-11-21',
                )
            ]
        )
    ),
)


def test_table_marks_whose_numbers_are_whose():
    rows = table(RESULTS).splitlines()
    assert rows[0].startswith('| task | metric | *ours* | *paper* | config |')
    assert rows[2] == (
        '| linear | accuracy/top1 | 12.35 | 78.0 | '
        'siamese_im_vit-base-p16_linear | 0.1.0 abc | 2026-11-21 |'
    )
    assert rows[3].startswith('| linear | accuracy/top5 | - | - |')


@pytest.mark.parametrize(
    ('change', 'shown'),
    [
        (dict(names='released SiameseIM'), True),
        (dict(names='MAE'), False),
        (dict(names='timm'), False),
        # MMPretrain's own MAE
        (dict(encoder=dict(PLAIN_BASE, final_norm=True)), False),
        (dict(encoder=dict(PLAIN_BASE, arch=LARGE.arch)), False),
    ],
)
def test_the_papers_number_is_beside_its_method_alone(change, shown):
    text = table(RESULTS | change)
    assert ('78.0' in text) is shown
    assert ('*paper*' in text) is shown
    assert ('1600 epochs' in text) is shown
    assert len({line.count('|') for line in text.splitlines()[:4]}) == 1


def robustness_metrics(config: Config, hits: int) -> dict:
    """What a config's own metric gives for so many hits of four images."""
    cfg = config.test_dataloader.dataset
    dataset = DATASETS.build(dict(cfg, pipeline=[], lazy_init=True))
    labels = dataset.metainfo.get('subset', range(1000))[:4]
    evaluator = MMEvaluator(METRICS.build(config.test_evaluator))
    evaluator.dataset_meta = dataset.metainfo
    samples = []
    for (k, label), corruption, severity in product(
        enumerate(labels), CORRUPTIONS, SEVERITIES
    ):
        meta = dict(corruption=corruption, severity=severity)
        sample = DataSample(metainfo=meta).set_gt_label(label)
        guess = label if k < hits else (label + 500) % 1000
        scores = torch.zeros(1000).index_fill(0, torch.tensor(guess), 1.0)
        samples.append(sample.set_pred_score(scores))
    evaluator.process(samples)
    return evaluator.evaluate(len(samples))


def test_all_four_sets_and_the_papers_average(demo, tmp_path, monkeypatch):
    """With the real configs and metrics; only the runs are replaced."""
    monkeypatch.setattr(Evaluation, '_check_data', lambda self: None)
    words = ['--tasks', 'robustness', '--work-dir', str(tmp_path)]
    run = evaluation(demo, *words)
    run.scale, run.encoder = SCALES['in1k'], Encoder()
    run.fine_tuned = True
    hits = dict(a=1, r=2, sketch=3, c=2)

    def run_script(script, words, log, gpus):
        folder = log.parent
        kind = folder.name.rpartition('-')[2]
        config = Config.fromfile(words[0])
        metrics = robustness_metrics(config, hits[kind])
        (folder / 'metrics.json').write_text(json.dumps(metrics))
        # The checkout changes while the command is interrupted.
        monkeypatch.setattr(suite, '_commit', lambda: f'after-{kind}')

    monkeypatch.setattr(suite, '_commit', lambda: 'never')
    monkeypatch.setattr(suite, 'run_script', run_script)
    results = run.run()
    assert results == json.loads((tmp_path / 'results.json').read_text())
    result = results['tasks']['robustness']
    metrics = result['metrics']
    mce = metrics['imagenet-c/mCE']
    assert metrics['imagenet-c/100-mCE'] == pytest.approx(100 - mce)
    assert metrics['average'] == pytest.approx((25 + 50 + 75 + 100 - mce) / 4)
    assert metrics['imagenet-sketch/top1'] == 75
    *parts, average = result['parts']
    names = [f'siamese_im_vit-base-p16_in1k-{kind}' for kind in hits]
    assert [part['config'] for part in parts] == names
    plugins = [part['plugin'] for part in parts]
    assert plugins == [f'{__version__} after-{kind}' for kind in hits]
    assert average['config'] == ', '.join(names)
    assert average['plugin'] == ', '.join(plugins)
    rows = (tmp_path / 'results.md').read_text()
    assert f'| robustness | average | {metrics["average"]:.2f} |' in rows
    assert run.run() == results  # from the files


def test_last_checkpoint_of_a_moved_folder(tmp_path):
    for noted in (
        'epoch_3.pth',
        'work/training/epoch_3.pth',
        '/x/epoch_3.pth',
    ):
        (tmp_path / 'last_checkpoint').write_text(f'{noted}\n')
        assert last_checkpoint(tmp_path) == tmp_path / 'epoch_3.pth'


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert _commit() == ''


@pytest.mark.slow
def test_all_tasks_of_the_demo(demo):
    """Each task once, small; then again from its results."""
    make_corruptions(demo / 'data/demo/val', demo / 'data/demo-c')
    command = [
        *('evaluate.py', 'encoder.pth', f'--tasks={",".join(TASKS)}'),
        '--work-dir=all',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=16',
        'train_dataloader.num_workers=0',
        'param_scheduler.warmup=0',
    ]
    first = run_tool(*command, cwd=demo)
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
    command[2] = '--tasks=linear'
    again = run_tool(*command, cwd=demo)
    assert again.stdout.count('done before') == 1
    # The other tasks of the run stay in the table.
    assert json.loads((demo / 'all/results.json').read_text()) == results


READ = {
    'dinov2-registers': ('cls', 'cls_token', 123.675, 256),
    'i-jepa': ('mean', 'avg_featmap', 123.675, 249),
    'siglip': ('mean', 'avg_featmap', 127.5, 249),
    'clip': ('cls', 'cls_token', 122.7709383, 249),
    'dinov3': ('cls', 'cls_token', 123.675, 224),
}


@pytest.mark.parametrize('kind', READ)
def test_encoders_are_read_as_their_authors_do(tmp_path, kind, capsys):
    """Pooling, mean and crop; each config computes the library's tokens."""
    library, file = saved(kind, tmp_path)
    (tmp_path / 'data' / 'train').mkdir(parents=True)
    words = [str(file), '--data', str(tmp_path / 'data'), '--num-heads', '4']
    run = Evaluation(
        parse_args([*words, '--work-dir', str(tmp_path / 'out')]), TOOLS
    )
    pool, out_type, mean, edge = READ[kind]
    knn = run._config('knn', *run._configs('knn'))
    linear = run._config('linear', *run._configs('linear'))
    logistic = run._config('logistic', *run._configs('logistic'))
    assert knn.test_cfg.pool == pool
    assert linear.model.backbone.out_type == out_type
    has_cls = kind not in ('i-jepa', 'siglip')
    assert logistic.test_cfg.pool == ('cls' if has_cls else 'mean')
    for config in (knn, linear, logistic):
        assert config.model.data_preprocessor.mean[0] == mean
        pipeline = config.test_dataloader.dataset.pipeline
        assert pipeline[2].size == edge
    knn.model.backbone.img_size = 32
    model = MODELS.build(knn.model)
    load_weights(model, file)
    with torch.no_grad():
        tokens = model.eval().backbone(images(32))[0]
        wanted = library.forward_features(images(32))
    assert (tokens - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize('kind', TIMM)
def test_every_family_is_evaluated(tmp_path, kind):
    """Each task builds the encoder of each family, and fills all of it."""
    library, file = saved(kind, tmp_path)
    (tmp_path / 'data' / 'train').mkdir(parents=True)
    words = [str(file), '--data', str(tmp_path / 'data'), '--num-heads', '4']
    words += ['--work-dir', str(tmp_path / 'out')]
    run = Evaluation(parse_args(words), TOOLS)
    wanted = library.forward_features(images(32)).detach()
    for task in ('knn', 'linear', 'logistic', 'finetune'):
        config = run._config(task, *run._configs(task))
        config.model.backbone.img_size = 32
        config.model.backbone.out_type = 'raw'
        for key, default in (
            ('final_norm', False),
            ('final_norm_affine', True),
        ):
            config.model.backbone[key] = run.options.get(key, default)
        backbone = MODELS.build(config.model.backbone)
        load_backbone(backbone, file)
        with torch.no_grad():
            tokens = backbone.eval()(images(32))[0]
        assert (tokens - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize('kind', TIMM)
@pytest.mark.usefixtures('in_process')
def test_every_family_runs_through_the_command(tmp_path, kind):
    """From its file to the accuracy, of every task for some of them."""
    _, file = saved(kind, tmp_path)
    chosen = kind in ('dinov2-registers', 'dinov3', 'beit', 'capi')
    names = ('knn', 'linear', 'logistic', 'finetune')[: 4 if chosen else 1]
    data = class_folders(tmp_path / 'data', broken=False)
    work = tmp_path / 'out'
    words = [file, '--data', data, '--work-dir', work, '--num-heads', '4']
    words += ['--tasks', ','.join(names), '--cfg-options']
    words += ['test_dataloader.num_workers=0']
    if chosen:
        words += ['train_cfg.max_epochs=1', 'param_scheduler.warmup=0']
        words += ['train_dataloader.num_workers=0']
        words += ['val_dataloader.num_workers=0']
    main([*map(str, words)])
    tasks = json.loads((work / 'results.json').read_text())['tasks']
    for task in names:
        metrics = tasks[task]['metrics']
        (top1,) = (v for k, v in metrics.items() if k in TOP1)
        assert 0 <= top1 <= 100, task


def test_erased_pixels_follow_the_family(tmp_path):
    _, file = saved('clip', tmp_path)
    weights = read_weights(file)
    name = 'siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py'
    config = Config.fromfile(config_path(name))
    options = weights.options(HEADS)
    family = weights.family._replace(interpolation='bilinear')
    fit_model(config, 'finetune', options, family)
    augment, erase = config.train_dataloader.dataset.pipeline[5:7]
    assert erase.fill_color == [*family.mean[::-1]]
    assert erase.fill_std == [*family.std[::-1]]
    assert augment.hparams.pad_val == [104, 117, 123]
    resize = config.test_dataloader.dataset.pipeline[2]
    assert resize.interpolation == 'bilinear'
    assert not check_settings(config, config.text)


def test_a_patch_that_does_not_divide_the_images(tmp_path):
    vit = our_vit(patch_size=12, img_size=48)
    torch.save(vit.state_dict(), tmp_path / 'vit.pth')
    (tmp_path / 'data' / 'train').mkdir(parents=True)
    words = [str(tmp_path / 'vit.pth'), '--data', str(tmp_path / 'data')]
    words += ['--num-heads', '4', '--work-dir', str(tmp_path / 'out')]
    run = Evaluation(parse_args(words), TOOLS)
    assert find_encoder(read_weights(tmp_path / 'vit.pth')) == run.encoder
    with pytest.raises(SimimError, match=r'224 px.*patches of 12 px'):
        run._config('knn', *run._configs('knn'))
