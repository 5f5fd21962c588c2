"""Files of one's own are never replaced, whatever form they have."""

import json
import os
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import import_modules_from_strings
from mmpretrain.datasets import CIFAR10
from PIL import Image

import simim_plugin
from simim_plugin.checkpoint.families import PLAIN
from simim_plugin.commands import configure
from simim_plugin.commands.configure import main
from simim_plugin.commands.convert import main as convert
from simim_plugin.config_files import config_path
from simim_plugin.errors import SimimError
from simim_plugin.recipes import machine, report
from simim_plugin.recipes.encoders import read_encoder
from simim_plugin.recipes.report import Tested, _as_read, _curves
from simim_plugin.recipes.written import Written
from simim_plugin.settings import apply_img_size, check_settings

from ..test_checkpoint.families import saved
from .data import class_folders, coco, label_maps, picture
from .test_writing import written


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file()
    }


def test_annotations_that_are_read_are_not_replaced(tmp_path):
    """Named by hand, or found in a folder."""
    file = coco(tmp_path / 'pets', name='pets_train.json')
    before = contents(file.parent)
    for data in (file, file.parent):
        with pytest.raises(SimimError, match='is read, and a file of this'):
            simim_plugin.configure('detection', data, file.parent / 'pets.py')
        assert contents(file.parent) == before


def test_lists_that_are_read_are_not_replaced(tmp_path):
    class_folders(tmp_path, broken=False)
    file = tmp_path / 'pets_train.txt'
    paths = sorted(tmp_path.glob('*/*.png'))
    file.write_text('\n'.join(map(str, paths)))
    before = file.read_text()
    with pytest.raises(SimimError, match='is read, and a file of this'):
        simim_plugin.configure('pretraining', file, tmp_path / 'pets.py')
    assert file.read_text() == before


def test_the_samples_are_no_training_picture(tmp_path, capsys):
    for k in range(8):
        picture(tmp_path / 'data' / f'{k}.png', (48, 40), k)
    words = ['pretraining', '--data', str(tmp_path / 'data'), '--no-trial']
    with pytest.raises(SystemExit):
        main([*words, '--out', str(tmp_path / 'data' / 'my.py')])
    assert 'my_samples.png would be a training' in capsys.readouterr().err
    assert len([*(tmp_path / 'data').iterdir()]) == 8


def test_patterns_of_archives_are_no_files(tmp_path):
    """A config of shards is written anew as any other."""
    class_folders(tmp_path / 'data', broken=False)
    paths = sorted((tmp_path / 'data').rglob('*.png'))
    for k in range(2):
        with tarfile.open(tmp_path / f'shard-{k}.tar', 'w') as archive:
            for n, path in enumerate(paths):
                archive.add(path, f'{k}{n}.png')
    pattern = str(tmp_path / 'shard-{0..1}.tar')
    for _ in range(2):
        recipe = simim_plugin.configure(
            'pretraining', pattern, tmp_path / 'my.py', img_size=32
        )
    assert recipe.data.pictures.count == 2 * len(paths)


def test_a_failure_leaves_everything_as_it_was(tmp_path, monkeypatch, capsys):
    class_folders(tmp_path / 'data')
    out = tmp_path / 'my.py'
    words = ['classification', '--data', str(tmp_path / 'data')]
    words += ['--out', str(out), '--img-size', '32']
    main([*words, '--no-trial'])
    out.write_text(out.read_text() + '# mine\n')
    before = contents(tmp_path)
    assert len(before) == 4  # lists of two parts, and the picture

    def fail(file, steps=2):
        raise SimimError('no luck.')

    monkeypatch.setattr(configure, 'try_step', fail)
    with pytest.raises(SystemExit):
        main([*words, '--overwrite', '--seed', '3'])
    assert 'no luck' in capsys.readouterr().err
    assert contents(tmp_path) == before
    out.unlink()
    with pytest.raises(SystemExit):
        main(words)
    assert 'exists, and would be replaced' in capsys.readouterr().err
    del before['my.py']
    assert contents(tmp_path) == before


def test_classes_may_have_folders_of_their_own(tmp_path):
    for name in ('cat', 'dog'):
        for k in range(6):
            picture(tmp_path / 'data' / name / '2020' / f'{k}.png', seed=k)
    out = tmp_path / 'my.py'
    simim_plugin.configure('classification', tmp_path / 'data', out)
    config = Config.fromfile(out)
    import_modules_from_strings(**config.custom_imports)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        train = DATASETS.build(config.train_dataloader.dataset)
    assert len(train) == 10
    labels = [train.get_data_info(k)['gt_label'] for k in range(10)]
    assert labels.count(0) == labels.count(1) == 5


def test_parts_have_endings_of_their_own(tmp_path):
    for part, ending in (('train', '.png'), ('val', '.tif')):
        label_maps(tmp_path / part, values=(1, 2))
        for path in (tmp_path / part / 'masks').iterdir():
            with Image.open(path) as image:
                image.save(path.with_suffix(ending))
            if ending != '.png':
                path.unlink()
    out = tmp_path / 'my.py'
    simim_plugin.configure(
        *('segmentation', tmp_path / 'train', out),
        val_data=str(tmp_path / 'val'),
        img_size=64,
    )
    config = Config.fromfile(out)
    import_modules_from_strings(**config.custom_imports)
    with DefaultScope.overwrite_default_scope('mmseg'):
        for loader in (config.train_dataloader, config.test_dataloader):
            assert len(DATASETS.build(loader.dataset)) == 8


def test_pictures_without_names_are_refused(tmp_path):
    file = coco(tmp_path)
    content = json.loads(file.read_text())
    for image in content['images']:  # as in LVIS
        image['coco_url'] = f'http://images/{image.pop("file_name")}'
    file.write_text(json.dumps(content))
    with pytest.raises(SimimError, match=r'id 100 .* has no file_name'):
        simim_plugin.configure('detection', file, tmp_path / 'my.py')


def test_names_of_any_kind(tmp_path):
    """Dollars, which matplotlib reads as formulas, and a mark of UTF-8."""
    data = class_folders(tmp_path / 'data', broken=False)
    (data / 'nut').rename(data / 'price_$1_$2')
    out = tmp_path / 'my.py'
    words = ['--data', str(data), '--out', str(out), '--img-size', '32']
    main(['classification', *words, '--no-trial'])
    tested = Tested(
        'classification',
        ['a', 'price_$1_$2'],
        {},
        [dict(confusion=(0, 1, 1)), dict(confusion=(1, 1, 1))],
    )
    assert tested.confusion().tolist() == [[0, 1], [0, 1]]
    report.draw_confusion(tested).canvas.draw()

    maps = label_maps(tmp_path / 'maps', values=(0, 3))
    (maps / 'classes.txt').write_text('0 soil\n3 crop\n', encoding='utf-8-sig')
    recipe = simim_plugin.configure('segmentation', maps, tmp_path / 'm.py')
    assert recipe.data.classes == ['soil', 'crop']

    odd = os.fsdecode(b'caf\xe9.png')
    (data / 'a rare one' / 'bild 0.png').rename(data / 'a rare one' / odd)
    with pytest.raises(SimimError, match='one name a line in UTF-8'):
        simim_plugin.configure('classification', data, tmp_path / 'odd.py')


def test_curves_have_the_classes_of_their_boxes(tmp_path):
    """Whatever ids the file of the tests gives them."""
    file = tmp_path / 'val.json'
    box = dict(image_id=1, bbox=[2, 2, 20, 20], area=400, iscrowd=0)
    content = dict(
        images=[dict(id=1, file_name='a.png', width=64, height=64)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[
            dict(box, id=1, category_id=1),
            dict(box, id=2, category_id=2, bbox=[30, 30, 20, 20]),
        ],
    )
    file.write_text(json.dumps(content))
    found = tmp_path / 'found.json'
    one = dict(image_id=1, category_id=1, bbox=[2, 2, 20, 20], score=0.9)
    found.write_text(json.dumps([one]))  # the cat alone
    curves = _curves(str(file), found, ['dog', 'cat'])
    assert curves['cat'] == pytest.approx(np.ones(101))
    assert curves['dog'].mean() == 0


def test_a_picture_is_drawn_as_the_model_has_read_it(tmp_path):
    """An upright camera and one upside down have pictures of one size."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    file = tmp_path / 'a.jpg'
    Image.fromarray(pixels).save(file, exif=exif, quality=95)
    for turned, first in ((True, 0), (False, 255)):
        result = dict(path=str(file), turned=turned, shape=(32, 32))
        assert (
            abs(int(_as_read(file.read_bytes(), result)[2, 2, 0]) - first) < 9
        )


@pytest.mark.parametrize('task', ['pretraining', 'classification'])
def test_pictures_of_five_channels(task, tmp_path):
    """The written config has a mean and std for each."""
    tifffile = pytest.importorskip('tifffile')
    noise = np.random.default_rng(0)
    for name in ('wheat', 'maize'):
        for k in range(12):
            path = tmp_path / 'data' / name / f'{k}.tif'
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = noise.integers(0, 256, (5, 40, 40), np.uint8)
            tifffile.imwrite(
                path,
                pixels,
                photometric='minisblack',
                planarconfig='separate',
            )
    _, encoder = saved('dinov2', tmp_path)
    out = tmp_path / 'my.py'
    words = [task, '--data', str(tmp_path / 'data'), '--out', str(out)]
    words += ['--encoder', str(encoder), '--num-heads', '2']
    main([*words, '--img-size', '32', '--batch-size', '4', '--epochs', '1'])
    config = Config.fromfile(out)
    model = config.model
    assert model.backbone.in_channels == 5
    assert model.data_preprocessor.mean == [127.5] * 5
    place = model if task == 'pretraining' else model.backbone
    assert place.pretrained.channels == 'repeat'


@pytest.mark.parametrize('kind', ['siglip', 'dinov2'])
def test_a_pretraining_has_the_statistics_of_its_encoder(kind, tmp_path):
    class_folders(tmp_path / 'data')
    recipe, config = written(
        *('pretraining', tmp_path / 'my.py', tmp_path / 'data'),
        encoder=str(saved(kind, tmp_path)[1]),
        num_heads=2,
    )
    family = recipe.encoder.family
    assert (kind == 'siglip') is (family.mean != PLAIN.mean)
    assert config.model.data_preprocessor.mean == [*family.mean]
    assert config.model.data_preprocessor.std == [*family.std]
    apply_img_size(config)
    check_settings(config)


def test_an_encoder_may_have_a_std_of_its_own(tmp_path):
    """Its mean alone is that of ImageNet."""
    encoder = read_encoder(str(saved('dinov2', tmp_path)[1]), num_heads=2)
    family = encoder.family._replace(std=(255.0,) * 3)
    out = Written('base.py', [])
    replace(encoder, family=family).set_statistics(out, 3)
    assert out.settings['model.data_preprocessor.std'].value == [255.0] * 3


def test_adapters_of_a_detector_are_a_sentence(tmp_path, capsys):
    """ViTDet has relative positions, which no other library has."""
    coco(tmp_path / 'data', count=4)
    _, encoder = saved('dinov2', tmp_path)
    out = tmp_path / 'my.py'
    simim_plugin.configure(
        *('detection', tmp_path / 'data', out),
        encoder=str(encoder),
        num_heads=2,
        img_size=64,
        lora=2,
    )
    config = Config.fromfile(out)
    import_modules_from_strings(**config.custom_imports)
    from mmdet.registry import MODELS

    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model)
    trained = tmp_path / 'trained.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), trained)
    words = [str(trained), str(tmp_path / 'slim.pth'), '--to', 'slim']
    with pytest.raises(SystemExit):
        convert([*words, '--num-heads', '2', '--config', str(out)])
    assert 'only plain ViTs can be converted' in capsys.readouterr().err


def test_cached_files_are_free_memory(tmp_path, monkeypatch):
    """In a container, whose limit counts them."""
    gib = 2**30
    files = {
        '/sys/fs/cgroup/memory.max': f'{8 * gib}\n',
        '/sys/fs/cgroup/memory.current': f'{7 * gib}\n',
        '/sys/fs/cgroup/memory.stat': f'anon 1\ninactive_file {5 * gib}\n',
        '/proc/meminfo': 'MemAvailable: 99999999 kB\n',
    }
    for k, (name, text) in enumerate(files.items()):
        (tmp_path / str(k)).write_text(text)
        files[name] = tmp_path / str(k)
    monkeypatch.setattr(
        machine, 'open', lambda name: files[name].open(), raising=False
    )
    assert machine._available() == 6 * gib


def test_a_report_needs_files(tmp_path, monkeypatch):
    """CIFAR-10's own files hold no pictures that a page could read."""
    batches = tmp_path / 'data' / 'cifar10' / 'cifar-10-batches-py'
    batches.mkdir(parents=True)
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        batch = dict(data=np.zeros((3, 3072), np.uint8), labels=[1, 5, 9])
        (batches / name).write_bytes(pickle.dumps(batch))
    monkeypatch.setattr(CIFAR10, '_check_integrity', lambda self: True)
    monkeypatch.chdir(tmp_path)
    file = config_path('siamese_im_vit-tiny-p4_knn_cifar10.py')
    with pytest.raises(SimimError, match='in no files of their own'):
        report.run_test(file, tmp_path / 'none.pth')
