"""From data of one's own to a trained model, by the commands of the docs."""

import json
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import import_modules_from_strings
from PIL import Image

import simim_plugin
from simim_plugin.checkpoint import read_weights
from simim_plugin.commands import configure
from simim_plugin.commands.configure import in_words, main
from simim_plugin.commands.convert import main as convert
from simim_plugin.commands.report import main as report
from simim_plugin.commands.test import main as run_test
from simim_plugin.commands.train import main as train
from simim_plugin.errors import SimimError
from simim_plugin.files import last_checkpoint
from simim_plugin.recipes import configuring
from simim_plugin.recipes.configuring import Choices, make_recipe
from simim_plugin.recipes.machine import UNTRIED, Machine
from simim_plugin.recipes.report import _detected, _scored, none_found
from simim_plugin.recipes.report import run_test as run_report_test
from simim_plugin.recipes.samples import draw_samples
from simim_plugin.recipes.trial import Trial, try_step

from ..test_checkpoint.families import saved
from ..training_processes import run_tool
from .data import class_folders, coco, label_maps, picture
from .test_writing import of_no_named_size

CPU = Machine('CPU', 12.0, 1, gpu=False)
JOBS = dict(
    pretraining=(class_folders, []),
    classification=(class_folders, []),
    detection=(coco, ['--batch-size', '2']),
    segmentation=(label_maps, []),
)


def configured(task, folder, *words):
    make, options = JOBS[task]
    make(folder / 'my data')
    out = folder / f'my_{task}.py'
    main(
        [
            *(task, '--data', str(folder / 'my data'), '--out', str(out)),
            *('--img-size', '64', '--epochs', '2', *options, *words),
        ]
    )
    return out


@pytest.mark.parametrize('task', JOBS)
def test_a_written_config_trains(task, tmp_path, capsys):
    """The trial step trains it, the picture shows its samples."""
    configured(task, tmp_path)
    printed = capsys.readouterr().out
    for word in ('data', 'encoder', 'machine', 'plan', 'trial', 'next'):
        assert f'\n{word} ' in f'\n{printed}', word
    assert 'look at it' in printed
    assert (tmp_path / f'my_{task}_samples.png').stat().st_size > 10_000
    with pytest.raises(SystemExit):
        configured(task, tmp_path)
    assert 'exists, perhaps with changes' in capsys.readouterr().err


@pytest.mark.slow
def test_train_test_and_report(tmp_path, capsys):
    out = configured('classification', tmp_path, '--no-trial')
    work_dir = tmp_path / 'run'
    words = (str(out), '--work-dir', str(work_dir))
    done = run_tool('train.py', *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = tmp_path / 'report.html'
    report([str(out), str(work_dir), '--out', str(page)])
    printed = capsys.readouterr().out
    assert 'accuracy/top1: ' in printed
    text = page.read_text()
    assert text.count('<img') == 3
    assert '<td>Äpfel &amp; Birnen</td>' in text
    assert 'tools/report.py' in text


def test_a_processor_takes_the_faster_precision(tmp_path, monkeypatch):
    """Of two trials; without any it stays in fp32."""
    machine = Machine('CPU', 12.0, 1, False, UNTRIED)
    monkeypatch.setattr(configuring, 'this_machine', lambda: machine)
    seconds = dict(fp32=2.0)

    def try_step(file, steps=2):
        wrapper = Config.fromfile(file).optim_wrapper
        name = 'bf16' if wrapper.on_cpu else 'fp32'
        return Trial(9.0, 1.0, 4, work=seconds[name])

    monkeypatch.setattr(configure, 'try_step', try_step)
    for bf16, on_cpu, why in (
        (1.0, True, 'bf16: 2.0 times as fast in a trial'),
        (1.95, False, 'fp32: bf16 is 1.0 times as fast in a trial'),
    ):
        seconds['bf16'] = bf16
        out = configured('classification', tmp_path, '--overwrite')
        assert Config.fromfile(out).optim_wrapper.on_cpu is on_cpu
        assert f'  # {why}\n' in out.read_text()
    words = ('--overwrite', '--no-trial')
    out = configured('classification', tmp_path, *words)
    assert Config.fromfile(out).optim_wrapper.on_cpu is False
    assert 'no trial has shown bf16 to be faster' in out.read_text()


@pytest.mark.parametrize('method', ['knn', 'logistic'])
def test_frozen_features_are_reported(method, tmp_path, capsys):
    """Also of pictures in archives."""
    class_folders(tmp_path / 'data')
    archives = []
    for part in ('train', 'test'):
        archives.append(tmp_path / f'{part}.zip')
        with zipfile.ZipFile(archives[-1], 'w') as archive:
            for path in sorted((tmp_path / 'data').rglob('*.png')):
                archive.write(path, path.relative_to(tmp_path / 'data'))
    _, encoder = saved('dinov2', tmp_path)
    out = tmp_path / 'mine.py'
    words = ['classification', '--data', archives[0], '--method', method]
    words += ['--val-data', archives[1], '--encoder', encoder, '--out', out]
    main([*map(str, words), '--num-heads', '2', '--img-size', '32'])
    printed = capsys.readouterr().out
    assert f'next     python tools/report.py {out} {encoder}' in printed
    page = tmp_path / 'report.html'
    report([str(out), str(encoder), '--out', str(page)])
    printed = capsys.readouterr().out
    top1 = dict(knn='knn/top1_k20', logistic='logistic/top1')[method]
    accuracy = float(printed.partition(f'{top1}: ')[2].split()[0])
    text = page.read_text()
    assert text.count('<img') == 3
    assert 'Confusion matrix' in text
    assert '<td>a rare one</td>' in text
    tested = run_report_test(out, encoder)
    confusion = tested.confusion()
    assert confusion.sum() == 20
    assert confusion.sum(1).tolist() == [4, 7, 9]
    hits = 100 * np.trace(confusion) / 20
    assert hits == pytest.approx(accuracy, abs=0.01)
    assert all(0 <= result['sure'] <= 1 + 1e-6 for result in tested.results)
    out.write_text(
        out.read_text() + '\ntest_cfg.update(classifier=['
        "dict(type='KNNClassifier'), dict(type='LogisticClassifier')])\n"
    )
    with pytest.raises(SimimError, match='has 2 classifiers, and a report'):
        run_report_test(out, encoder)


def test_a_picture_has_no_scores_of_unknown_classes():
    scores = torch.tensor([0.1, 0.2, 0.7])
    entry = _scored('a.png', 1, scores, 4)
    assert (entry['predicted'], entry['confusion']) == (2, (1, 2, 1))
    with pytest.raises(SimimError, match='3 classes, and the test set names'):
        _scored('a.png', 1, scores, 2)


@pytest.mark.slow
def test_linear_segmentation_is_reported(tmp_path):
    label_maps(tmp_path / 'data', values=(3, 9, 7))
    _, encoder = saved('dinov2', tmp_path)
    words = ['segmentation', '--data', 'data', '--method', 'linear']
    words += ['--encoder', encoder, '--num-heads', '2', '--img-size', '32']
    words += ['--epochs', '2', '--no-trial', '--run', '--out', 'mine.py']
    printed = command(tmp_path, 'configure.py', *words)
    assert 'mIoU: ' in printed
    page = (tmp_path / 'work_dirs/mine/report.html').read_text()
    assert page.count('<img') == 3
    for word in ('Confusion matrix', 'Worst predictions', 'class 9', 'IoU'):
        assert word in page, word


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_adapters_of_whole_models(task, tmp_path):
    """The encoder is held; the file has adapters and the heads."""
    encoder, _ = of_no_named_size(tmp_path)
    JOBS[task][0](tmp_path / 'data')
    words = [task, '--data', 'data', '--encoder', encoder, '--lora', '4']
    words += ['--num-heads', '2', '--img-size', '64', '--batch-size', '2']
    words += ['--epochs', '1', '--no-trial', '--run', '--out', 'mine.py']
    command(tmp_path, 'configure.py', *words)
    work_dir = tmp_path / 'work_dirs' / 'mine'
    assert (work_dir / 'report.html').is_file()
    last = last_checkpoint(work_dir)
    state = torch.load(last, weights_only=False)['state_dict']
    inside = [name for name in state if name.startswith('backbone.')]
    assert inside
    assert all('.lora_' in name for name in inside)
    assert all(state[n].any() for n in inside if '.lora_up' in n)
    assert len(inside) < len(state)
    config = work_dir / 'config.py'
    words = [last, 'mine.onnx', '--to', 'onnx', '--config', config]
    printed = command(tmp_path, 'convert.py', *words)
    assert 'on 3 pictures of 2 sizes' in printed
    data = tmp_path / 'data' / 'images'
    words = [config, last, *sorted(data.iterdir())[:2], '--out', 'found']
    command(tmp_path, 'predict.py', *words)
    assert len([*(tmp_path / 'found' / 'drawn').iterdir()]) == 2


def test_adapters_train_resume_and_are_exported(tmp_path):
    _, encoder = saved('dinov2', tmp_path)
    words = ('--encoder', str(encoder), '--num-heads', '2', '--lora', '4')
    out = configured('classification', tmp_path, '--epochs', '1', *words)
    work_dir = tmp_path / 'run'
    given = (str(out), '--work-dir', str(work_dir))
    train(list(given))
    first = torch.load(work_dir / 'epoch_1.pth', weights_only=False)
    names = [*first['state_dict']]
    assert all('.lora_' in n or n.startswith('head.') for n in names)
    longer = ('--cfg-options', 'train_cfg.max_epochs=2')
    train([*given, '--resume', '--extend', *longer])
    last = work_dir / 'epoch_2.pth'
    state = torch.load(last, weights_only=False)['state_dict']
    assert all(
        not torch.equal(state[n], first['state_dict'][n])
        for n in names
        if '.lora_' in n
    )
    metrics = tmp_path / 'metrics.json'
    run_test([str(out), str(last), *given[1:], '--out', str(metrics)])
    assert 0 <= json.loads(metrics.read_text())['accuracy/top1'] <= 100
    merged = tmp_path / 'merged.pth'
    also = ('--to', 'slim', '--num-heads', '2', '--config', str(out))
    convert([str(last), str(merged), *also])
    ours, theirs = (
        read_weights(f).part('backbone') for f in (merged, encoder)
    )
    same = {n for n in theirs if n in ours and 'pos_embed' not in n}
    moved = {n for n in same if not torch.equal(ours[n], theirs[n])}
    attention = ('qkv.weight', 'proj.weight')
    assert moved == {n for n in theirs if n.endswith(attention)}


def test_a_report_compares_boxes_of_the_file(tmp_path):
    """Test images are resized, the boxes of a prediction are not."""
    file = coco(tmp_path / 'data', count=4)
    out = tmp_path / 'my.py'
    simim_plugin.configure(
        'detection', str(tmp_path / 'data'), out, img_size=128
    )
    config = Config.fromfile(out)
    import_modules_from_strings(**config.custom_imports)
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(config.test_dataloader.dataset)
    (sample, *_) = (dataset[k]['data_samples'] for k in range(len(dataset)))
    assert min(sample.scale_factor) > 1
    content = json.loads(file.read_text())
    boxes = [
        [left, top, left + width, top + height]
        for left, top, width, height in (
            a['bbox']
            for a in content['annotations']
            if a['image_id'] == sample.img_id
        )
    ]
    labels = [i['bbox_label'] for i in sample.instances]
    predicted = dict(
        bboxes=torch.tensor(boxes).float(),
        labels=torch.tensor(labels),
        scores=torch.tensor([0.9] * len(boxes)),
    )
    result = _detected(dict(sample.to_dict(), pred_instances=predicted), 3)
    assert result['true']['boxes'].tolist() == boxes
    assert result['score'] == 1
    sample.set_metainfo(dict(instances=None))
    with pytest.raises(SimimError, match="add 'instances' to meta_keys"):
        _detected(dict(sample.to_dict(), pred_instances=predicted), 3)


def test_a_detector_that_finds_nothing_has_metrics():
    both = [dict(type='CocoMetric', metric=['bbox', 'segm'])]
    assert none_found(both) == {'coco/bbox_mAP': 0, 'coco/segm_mAP': 0}
    assert none_found([dict(metric='bbox')]) == {'coco/bbox_mAP': 0}


def test_nothing_is_left_of_a_config_that_does_not_run(tmp_path, capsys):
    class_folders(tmp_path / 'data')
    out = tmp_path / 'my.py'
    with pytest.raises(SystemExit):
        main(
            [
                *('classification', '--data', str(tmp_path / 'data')),
                *('--out', str(out), '--batch-size', '64'),
            ]
        )
    assert 'too few for one batch of 64' in capsys.readouterr().err
    assert not [*tmp_path.glob('my*')]


@pytest.mark.parametrize(
    ('words', 'printed'),
    [
        (['--out', 'my.txt'], 'a config is a .py file'),
        (['--hours', '2', '--epochs', '3'], '--hours sets the epochs'),
        (['--hours', '-2'], 'set a number above 0'),
        (['--hours', '2', '--method', 'knn'], '--hours has no effect on knn'),
        (['--ignore', 'all'], 'takes values'),
        (['--data', 'nowhere'], 'There is no folder nowhere'),
    ],
)
def test_wrong_options_are_refused(
    words, printed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(['pretraining', '--data', 'here', *words])
    assert printed in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_configure_in_python(tmp_path):
    class_folders(tmp_path / 'data')
    out = tmp_path / 'my.py'
    recipe = simim_plugin.configure(
        'classification', str(tmp_path / 'data'), out, img_size=32, epochs=3
    )
    assert Config.fromfile(out).train_cfg.max_epochs == 3
    assert recipe.plan.epochs == 3
    with pytest.raises(SimimError, match='no choice epoch; it takes arch'):
        simim_plugin.configure('pretraining', 'x', out, epoch=3)
    with pytest.raises(AttributeError, match="no attribute 'configurre'"):
        simim_plugin.configurre  # noqa: B018


def test_words_for_a_time():
    assert [in_words(s) for s in (9, 150, 7300, 200_000)] == [
        *('9 seconds', '2 minutes', '2 hours', '2 days')
    ]


def three_categories(shared, folder):
    """Write COCO's photographs with three categories; return their names."""
    source = shared / 'data' / 'coco_tiny'
    kept = {'person', 'car', 'chair'}
    for part in ('train', 'val'):
        file = source / 'annotations' / f'instances_{part}2017.json'
        content = json.loads(file.read_text())
        names = {c['id']: c['name'] for c in content['categories']}
        for key, field in (
            ('categories', 'id'),
            ('annotations', 'category_id'),
        ):
            content[key] = [e for e in content[key] if names[e[field]] in kept]
        Path(folder, f'{part}.json').write_text(json.dumps(content))
        Path(folder, part).symlink_to(source / f'{part}2017')
    return kept


def test_three_categories_of_real_photographs(shared, tmp_path):
    """COCO's photographs as if they were one's own."""
    kept = three_categories(shared, tmp_path)
    out = tmp_path / 'mine.py'
    recipe = make_recipe(
        'detection', str(tmp_path), out, Choices(img_size=224), CPU
    )
    recipe.write(out)
    assert {*recipe.data.classes} == kept
    assert recipe.data.images == (50, 50)
    assert try_step(out, steps=1).batch == 2
    assert len(draw_samples(out, recipe.data.classes).axes) == 12


def test_five_classes_of_real_scenes(shared, tmp_path):
    """ADE20K's pairs, all but five classes ignored."""
    root = shared / 'data' / 'ade_tiny' / 'ADEChallengeData2016'
    names = tmp_path / 'classes.txt'
    names.write_text('1 wall\n3 sky\n4 floor\n5 tree\n6 ceiling\n')
    out = tmp_path / 'mine.py'
    choices = Choices(classes=str(names), ignored='others', img_size=64)
    recipe = make_recipe('segmentation', str(root), out, choices, CPU)
    recipe.write(out)
    assert recipe.data.classes == ['wall', 'sky', 'floor', 'tree', 'ceiling']
    assert Config.fromfile(out).pictures.ignored == 'others'
    assert try_step(out, steps=1).batch == 4


def of_all_kinds(root):
    """Give pictures other sizes and kinds, and break one."""
    (json_file,) = [*root.glob('*.json')] or [None]
    content = json.loads(json_file.read_text()) if json_file else {}
    sizes = {image['file_name']: image for image in content.get('images', ())}
    files = [f for f in sorted(root.rglob('bild*')) if 'masks' not in f.parts]
    for k, file in enumerate(files):
        image = Image.open(file)
        if file.suffix == '.png':
            kind = ('L', 'P', 'RGBA', 'RGB', 'I;16')[k % 5]
        else:
            kind = ('L', 'CMYK', 'RGB')[k % 3]
        if 'masks' not in {p.name for p in root.iterdir()}:
            image = image.crop((0, 0, 64 + 7 * k, 48 + 5 * k))
        if file.name in sizes:
            sizes[file.name].update(width=image.width, height=image.height)
        if kind == 'I;16':
            deep = np.asarray(image.convert('L')).astype(np.uint16) * 257
            image = Image.fromarray(deep)
        elif kind == 'P':
            image = image.convert('RGB').quantize(16)
        else:
            image = image.convert(kind)
        image.save(file)
    files[4].write_bytes(files[4].read_bytes()[:90])
    if content:
        json_file.write_text(json.dumps(content))


def photographs_of_cifar10(shared, folder):
    """Write ten pictures of each of three classes, in folders."""
    source = shared / 'data' / 'cifar10'
    names = (source / 'classes.txt').read_text().split()
    packed = np.load(source / 'cifar10_test_jpeg.npz')
    offsets, labels = packed['offsets'], packed['labels']
    for label in (0, 3, 9):
        for k in np.flatnonzero(labels == label)[:10]:
            file = folder / names[label] / f'{k}.jpg'
            file.parent.mkdir(parents=True, exist_ok=True)
            data = packed['jpeg'][offsets[k] : offsets[k + 1]]
            file.write_bytes(data.tobytes())


def five_classes(shared, tmp_path):
    """Return options for ADE20K's pairs, all but five classes ignored."""
    root = shared / 'data' / 'ade_tiny' / 'ADEChallengeData2016'
    names = tmp_path / 'my classes.txt'
    names.write_text('1 wall\n3 sky\n4 floor\n5 tree\n6 ceiling\n')
    return root, ['--classes', names, '--ignore', 'others']


@pytest.mark.minutes
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    'kind',
    [
        *('classification', 'detection', 'segmentation'),
        *('cifar10', 'coco_tiny', 'ade20k'),
    ],
)
def test_from_data_to_an_exported_model(kind, request, tmp_path):
    """Configure, train, test, report, predict, export and reload."""
    task, options = REAL.get(kind, kind), []
    data = photographs = tmp_path / 'my dätä'
    if kind in JOBS:
        JOBS[kind][0](data)
        of_all_kinds(data)
    else:
        shared = request.getfixturevalue('shared')
        data.mkdir()
    if kind == 'cifar10':
        photographs_of_cifar10(shared, data)
    elif kind == 'coco_tiny':
        three_categories(shared, data)
        photographs = data / 'val'
    elif kind == 'ade20k':
        data, options = five_classes(shared, tmp_path)
        photographs = data / 'images' / 'validation'
    words = [task, '--data', data, '--out', 'mine.py', '--run', *options]
    words += ['--img-size', '64', '--epochs', '1', '--batch-size', '2']
    command(tmp_path, 'configure.py', *words, '--no-trial')
    work_dir = tmp_path / 'work_dirs' / 'mine'
    page = (work_dir / 'report.html').read_text()
    assert page.count('<img') >= 3
    last = last_checkpoint(work_dir)
    config = work_dir / 'config.py'
    ending = '*.png' if kind in ('classification', 'detection') else '*.jpg'
    places = sorted(photographs.rglob(ending))[-3:]
    command(tmp_path, 'predict.py', config, last, *places, '--out', 'found')
    rows = json.loads((tmp_path / 'found/predictions.json').read_text())
    if task != 'detection':  # an object is found, or none
        assert len(rows) == 3
    assert len([*(tmp_path / 'found' / 'drawn').glob('*.png')]) == 3
    assert not [*(tmp_path / 'found').rglob('*.png.png')]
    if task == 'segmentation':
        for row in rows:
            labels = Image.open(tmp_path / 'found' / row['label_map'])
            assert labels.size == (row['width'], row['height'])
    words = [last, 'mine.onnx', '--to', 'onnx', '--config', config]
    printed = command(tmp_path, 'convert.py', *words)
    assert 'on 3 pictures of 2 sizes' in printed
    session = onnxruntime.InferenceSession(str(tmp_path / 'mine.onnx'))
    about = session.get_modelmeta().custom_metadata_map
    assert about['task'] == task
    names = json.loads(about['classes'])
    if kind == 'ade20k':
        assert names == ['wall', 'sky', 'floor', 'tree', 'ceiling']
    assert len(names) == {'ade20k': 5, 'segmentation': 2}.get(kind, 3)


REAL = dict(
    cifar10='classification', coco_tiny='detection', ade20k='segmentation'
)


def command(folder, name, *words):
    """Run a command in a folder; return what it prints."""
    done = run_tool(name, *words, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['dinov2', 'dinov3', 'i-jepa', 'beit'])
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_models_of_other_encoders_are_exported(task, kind, tmp_path):
    """Extra tokens, other positions and no cls token, in whole graphs."""
    library, encoder = saved(kind, tmp_path)
    data = tmp_path / 'data'
    JOBS[task][0](data)
    words = [task, '--data', data, '--out', 'mine.py', '--no-trial']
    words += ['--encoder', encoder, '--num-heads', '4', '--epochs', '1']
    words += ['--img-size', '64', '--batch-size', '2']
    words += ['--method', 'linear'] if task == 'segmentation' else []
    command(tmp_path, 'configure.py', *words)
    command(tmp_path, 'train.py', 'mine.py', '--work-dir', 'run')
    last = last_checkpoint(tmp_path / 'run')
    state = torch.load(last, weights_only=False)['state_dict']
    name = 'layers.0.attn.proj.weight'
    (found,) = (v for k, v in state.items() if k.endswith(name))
    wanted = library.state_dict()['blocks.0.attn.proj.weight']
    assert torch.allclose(found, wanted, atol=0.05)
    words = [last, 'mine.onnx', '--to', 'onnx']
    words += ['--config', tmp_path / 'run' / 'config.py']
    printed = command(tmp_path, 'convert.py', *words)
    assert 'on 3 pictures of 2 sizes' in printed


@pytest.mark.slow
def test_a_pretraining_is_reported(tmp_path):
    """Curves of losses and matches, and the sentence of the log."""
    for k in range(40):
        picture(tmp_path / 'photographs' / f'{k}.png', (72, 64), k)
    words = ['pretraining', '--data', 'photographs', '--out', 'mine.py']
    words += ['--epochs', '2', '--img-size', '64', '--no-trial', '--run']
    printed = command(tmp_path, 'configure.py', *words)
    assert 'Patches that find their partner in the other view: ' in printed
    page = (tmp_path / 'work_dirs/mine/report.html').read_text()
    assert page.count('<img') == 2
    for word in ('positive_term', 'matches/share', 'at the start', '--run'):
        assert word in page, word
    config, checkpoint = 'mine.py', 'work_dirs/mine/epoch_2.pth'
    done = run_tool('report.py', config, checkpoint, cwd=tmp_path)
    assert done.returncode == 1
    assert 'pass the folder of the run' in done.stderr


def tried(monkeypatch, memory, step):
    """Let a GPU of some memory try the steps; return their batches."""
    machine = Machine('a GPU', memory, 1, gpu=True)
    monkeypatch.setattr(configuring, 'this_machine', lambda: machine)
    batches = []

    def try_step(file):
        batch = Config.fromfile(file).train_dataloader.batch_size
        batches.append(batch)
        return step(batch)

    monkeypatch.setattr(configure, 'try_step', try_step)
    return batches


def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch, capsys):
    def step(batch):
        if batch > 1:
            raise torch.OutOfMemoryError
        return Trial(0.1, 20.0, batch)

    batches = tried(monkeypatch, 24.0, step)
    out = configured('pretraining', tmp_path)
    config = Config.fromfile(out)
    assert batches == [4, 2, 1]
    assert config.train_dataloader.batch_size == 1
    assert config.optim_wrapper.accumulative_counts == 4
    with pytest.raises(SystemExit):
        configured('classification', tmp_path / 'b', '--batch-size', '2')
    assert 'lower --batch-size or --img-size' in capsys.readouterr().err
    assert not (tmp_path / 'b' / 'my_classification.py').exists()


def test_a_batch_that_leaves_memory_grows(tmp_path, monkeypatch):
    batches = tried(monkeypatch, 0.1, lambda batch: Trial(0.1, 0.001, batch))
    out = configured('pretraining', tmp_path)
    assert batches == [1, 4]
    assert Config.fromfile(out).train_dataloader.batch_size == 4
    assert Config.fromfile(out).optim_wrapper.accumulative_counts == 1


def test_hours_set_the_epochs(tmp_path, monkeypatch):
    tried(monkeypatch, 24.0, lambda batch: Trial(9.0, 20.0, batch))
    data = class_folders(tmp_path / 'data')
    words = ['pretraining', '--data', data, '--out', tmp_path / 'mine.py']
    main([*map(str, words), '--hours', '0.5', '--img-size', '64'])
    config = Config.fromfile(tmp_path / 'mine.py')
    steps = 19 // 4  # one of 20 pictures is held out
    assert config.train_cfg.max_epochs == 1800 // (9 * steps)
