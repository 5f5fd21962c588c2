"""Predictions of pictures by a config and a checkpoint, for every task."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from simim_plugin import config_path
from simim_plugin.commands import predict as command
from simim_plugin.commands.evaluate import _read_folders
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIMViT
from simim_plugin.prediction import find_pictures
from simim_plugin.prediction.names import class_names
from simim_plugin.visualization import predictions as drawing

from .conftest import (
    CIFAR,
    FINETUNED,
    LINEAR,
    SEG_LINEAR,
    UPERNET,
    VITDET,
    names_of,
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Return pictures of several kinds, one turned by EXIF, one broken."""
    root = tmp_path_factory.mktemp('pictures') / 'a b'
    (root / 'inner').mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    image = Image.fromarray(pixels).resize((90, 60), Image.BICUBIC)
    image.save(root / 'ä.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(root / 'turned.jpg', exif=exif)
    image.convert('L').resize((40, 70)).save(root / 'inner' / 'ä.png')
    deep = np.asarray(image.convert('L')).astype(np.uint16) * 257
    Image.fromarray(deep).save(root / 'deep.tif')
    (root / 'broken.jpg').write_bytes((root / 'turned.jpg').read_bytes()[:99])
    (root / 'notes.txt').write_text('no picture')
    return root


def run(*words) -> tuple[int, str, str]:
    """Run the command; return its exit code and output."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command.main([str(word) for word in words])
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


SIZES = {
    'ä.png': (90, 60),
    'turned.jpg': (60, 90),  # upright
    'inner/ä.png': (40, 70),
    'deep.tif': (90, 60),
}


def result(folder: Path, row: dict) -> Path:
    """Return the PNG file of a picture that shares its stem with none."""
    return (folder / row['file_name']).with_suffix('.png')


def check_broken(code: int, out: str, err: str) -> None:
    """One broken picture is named and counted, and the others are there."""
    assert code == 1
    assert 'Predicted 4 of 5 pictures' in out
    assert err.count('\n') <= 2 or 'Left out' in err + out
    assert '1 of the 5 pictures cannot be read' in err
    assert 'broken.jpg' in err
    assert 'Traceback' not in err + out


@pytest.mark.parametrize('name', [FINETUNED, LINEAR], ids=['ft', 'linear'])
def test_classes(name, folder, checkpoint, tmp_path):
    out = tmp_path / 'out'
    check_broken(
        *run(name, checkpoint(name), folder, '--out', out, '--top', '3')
    )
    rows = json.loads((out / 'predictions.json').read_text())
    assert {row['file_name']: (row['width'], row['height']) for row in rows}
    for row in rows:
        assert (row['width'], row['height']) == SIZES[row['file_name']]
        found = row['predictions']
        assert len(found) == 3
        scores = [one['score'] for one in found]
        assert scores == sorted(scores, reverse=True)
        for one in found:
            assert one['name'] == f'Größe {one["label"]}'
        drawn = Image.open(result(out / 'drawn', row))
        assert max(drawn.size) >= drawing.SMALLEST
    assert len(rows) == len(SIZES)
    assert len({row['predictions'][0]['score'] for row in rows}) > 1


def test_classes_are_those_of_the_inferencer(folder, checkpoint, tmp_path):
    from mmpretrain import ImageClassificationInferencer

    out, file = tmp_path / 'out', folder / 'turned.jpg'
    weights = checkpoint(FINETUNED)
    assert run(FINETUNED, weights, file, '--out', out)[0] == 0
    (row,) = json.loads((out / 'predictions.json').read_text())
    stock = ImageClassificationInferencer(config_path(FINETUNED), weights)
    (wanted,) = stock(str(file))
    assert row['predictions'][0]['label'] == wanted['pred_label']
    assert row['predictions'][0]['score'] == pytest.approx(
        wanted['pred_score'], abs=1e-5
    )


@pytest.mark.parametrize('name', CIFAR, ids=['ft', 'linear'])
def test_classes_of_cifar(name, folder, checkpoint, tmp_path, monkeypatch):
    """Pictures of any size become 32 px, as in an evaluation of folders."""
    weights, seen = checkpoint(name), []
    stock = SiameseIMViT.forward

    def forward(self, x):
        seen.append(x)
        return stock(self, x)

    monkeypatch.setattr(SiameseIMViT, 'forward', forward)
    out, file = tmp_path / 'out', folder / 'turned.jpg'
    assert run(name, weights, file, '--out', out)[0] == 0
    (row,) = json.loads((out / 'predictions.json').read_text())
    assert (row['width'], row['height']) == SIZES['turned.jpg']
    config = Config.fromfile(config_path(name))
    dataset = config.test_dataloader.dataset
    _read_folders(dataset, tmp_path, 32)
    read = Compose([TRANSFORMS.build(step) for step in dataset.pipeline])
    wanted = read(dict(img_path=str(file)))['inputs']
    (found,) = seen
    assert found.shape == (1, 3, 32, 32)
    mean, std = (
        config.model.data_preprocessor[name] for name in ('mean', 'std')
    )
    levels = found[0] * torch.tensor(std)[:, None, None]
    levels += torch.tensor(mean)[:, None, None]
    assert (levels - wanted).abs().max() < 0.01


@pytest.mark.parametrize('masks', [True, False], ids=['masks', 'boxes'])
def test_objects(masks, folder, checkpoint, tmp_path):
    """The files are those of COCO's tools, in upright coordinates."""
    out, weights = tmp_path / 'out', checkpoint(VITDET)
    ids = dict(zip(names_of(8), (3, 7, 90, 1, 2, 5, 40, 11), strict=True))
    rows = [dict(id=number, name=name) for name, number in ids.items()]
    file = tmp_path / 'known.json'
    file.write_text(json.dumps(dict(categories=rows)))
    words = [
        f'test_dataloader.dataset.ann_file={file}',
        'model.test_cfg.rcnn.score_thr=0.0',
        'model.test_cfg.rcnn.max_per_img=6',
    ]
    config = VITDET
    if not masks:
        config = tmp_path / 'boxes.py'
        lines = [f'_base_ = {config_path(VITDET)!r}']
        lines.append("model = dict(type='FasterRCNN', roi_head=dict(")
        lines.append('    mask_roi_extractor=None, mask_head=None))')
        config.write_text('\n'.join(lines))
        content = torch.load(weights)
        state = content['state_dict']
        for key in [key for key in state if 'mask_head' in key]:
            del state[key]
        weights = tmp_path / 'boxes.pth'
        torch.save(content, weights)
    common = ['--out', out, '--score-thr', '0', '--cfg-options', *words]
    check_broken(*run(config, weights, folder, *common))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(out / 'images.json')
        found = coco.loadRes(str(out / 'predictions.json'))
    images = {
        image['file_name']: (image['width'], image['height'])
        for image in coco.dataset['images']
    }
    assert images == SIZES
    assert found.anns
    for row in found.anns.values():
        assert ids[row['category_name']] == row['category_id']
        width, height = SIZES[row['file_name']]
        left, top, across, down = row['bbox']
        assert left >= 0 and left + across <= width + 0.02
        assert top >= 0 and top + down <= height + 0.02
        if masks:
            mask = coco_mask.decode(row['segmentation'])
            assert mask.shape == (height, width)
    assert len([*(out / 'drawn').rglob('*.png')]) == 4


def test_category_ids_without_annotations(folder, checkpoint, tmp_path):
    out = tmp_path / 'out'
    words = [VITDET, checkpoint(VITDET), folder / 'deep.tif', '--out', out]
    code, printed, _ = run(*words, '--no-draw')
    assert code == 0 and 'No object' not in printed
    rows = json.loads((out / 'images.json').read_text())['categories']
    assert [row['id'] for row in rows] == [*range(1, 9)]
    assert not (out / 'drawn').exists()
    words[-1] = tmp_path / 'drawn'
    none = ('--cfg-options', 'model.test_cfg.rcnn.score_thr=1.0')
    code, printed, _ = run(*words, *none)
    assert code == 0 and 'No object has a score of 0.3 (the best: 0' in printed


@pytest.mark.parametrize(
    'name', [UPERNET, SEG_LINEAR], ids=['upernet', 'linear']
)
def test_label_maps(name, folder, checkpoint, tmp_path):
    out = tmp_path / 'out'
    check_broken(*run(name, checkpoint(name), folder, '--out', out))
    rows = json.loads((out / 'predictions.json').read_text())
    legend = json.loads((out / 'classes.json').read_text())
    assert [row['name'] for row in legend] == [*names_of(14)]
    assert len(rows) == len(SIZES)
    for row in rows:
        image = Image.open(out / row['label_map'])
        assert image.mode == 'P'
        assert image.size == SIZES[row['file_name']]
        labels = np.asarray(image)
        counts = np.bincount(labels.ravel(), minlength=14)
        found = {one['label']: one['pixels'] for one in row['classes']}
        assert found == {k: n for k, n in enumerate(counts) if n}
        assert sum(one['share'] for one in row['classes']) == pytest.approx(
            1, abs=1e-4
        )
        colours = np.asarray(image.convert('RGB'))
        for k in found:
            assert colours[labels == k][0].tolist() == legend[k]['colour']
        assert result(out / 'drawn', row).is_file()


def test_label_maps_of_one_channel(folder, tmp_path):
    """A head with a sigmoid predicts the classes 0 and 1."""
    config = tmp_path / 'one.py'
    config.write_text(
        f'_base_ = {config_path(SEG_LINEAR)!r}\n'
        'model = dict(decode_head=dict(num_classes=2, out_channels=1, '
        'threshold=0.5, loss_decode=dict(use_sigmoid=True)))'
    )
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    meta = dict(dataset_meta=dict(classes=('ground', 'disc')))
    weights, out = tmp_path / 'one.pth', tmp_path / 'out'
    torch.save(dict(meta=meta, state_dict=model.state_dict()), weights)
    assert run(config, weights, folder / 'ä.png', '--out', out)[0] == 0
    (row,) = json.loads((out / 'predictions.json').read_text())
    labels = np.asarray(Image.open(out / row['label_map']))
    assert labels.shape == SIZES['ä.png'][::-1]
    assert {one['name']: one['pixels'] for one in row['classes']} == {
        'ground': (labels == 0).sum(),
        'disc': (labels == 1).sum(),
    }
    assert result(out / 'drawn', row).is_file()


def test_channels_of_the_config(checkpoint, tmp_path):
    """A model of one channel reads a colour picture as grey."""
    config = tmp_path / 'grey.py'
    config.write_text(
        f'_base_ = {config_path(FINETUNED)!r}\n'
        'model = dict(backbone=dict(in_channels=1),\n'
        '    data_preprocessor=dict(mean=[120.0], std=[60.0]))\n'
    )
    Image.new('RGB', (70, 80), (200, 30, 30)).save(tmp_path / 'red.png')
    content = torch.load(checkpoint(FINETUNED))
    key = 'backbone.patch_embed.projection.weight'
    content['state_dict'][key] = content['state_dict'][key].sum(1, True)
    torch.save(content, tmp_path / 'grey.pth')
    out = tmp_path / 'out'
    code, _, err = run(
        config, tmp_path / 'grey.pth', tmp_path / 'red.png', '--out', out
    )
    assert code == 0, err
    assert (out / 'drawn/red.png').is_file()


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ('siamese_im_vit-micro-p8_knn_demo.py', 'no file keeps the fit'),
        ('siamese_im_vit-micro-p8_logistic_demo.py', 'no file keeps the fit'),
        ('siamese_im_vit-micro-p8_seg-knn_demo.py', 'no file keeps the fit'),
        ('siamese_im_vit-micro-p8_demo.py', 'predicts no classes'),
        (
            'siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512'
            '-ms.py',
            'without -ms',
        ),
    ],
    ids=['knn', 'logistic', 'seg-knn', 'pretraining', 'scales'],
)
def test_configs_that_predict_nothing(config, words, folder, tmp_path):
    out = tmp_path / 'out'
    code, _, err = run(config, 'x.pth', folder / 'ä.png', '--out', out)
    assert code == 1
    assert words in err
    assert err.count('\n') == 1
    assert not out.exists()


def test_refused_words(folder, checkpoint, tmp_path):
    out, weights = tmp_path / 'out', checkpoint(FINETUNED)
    full = tmp_path / 'full'
    full.mkdir()
    (full / 'old').touch()
    for words, printed in (
        ([folder / 'none.jpg', '--out', out], 'no picture at'),
        ([tmp_path / 'full', '--out', out], 'no picture'),
        ([f'{folder}/*.webp', '--out', out], 'no picture at'),
        ([folder, '--out', full], 'not empty'),
    ):
        code, _, err = run(FINETUNED, weights, *words)
        assert (code, err.count('\n')) == (1, 1)
        assert printed in err
    for config, option, model in (
        (FINETUNED, ('--score-thr', '0.5'), 'detector'),
        (VITDET, ('--top', '3'), 'classifier'),
        (UPERNET, ('--top', '3'), 'classifier'),
    ):
        code, _, err = run(config, weights, folder, '--out', out, *option)
        assert (code, err.count('\n')) == (1, 1)
        assert f'{option[0]} has no effect' in err
        assert f'is no {model}; leave it out.' in err
    code, _, err = run(UPERNET, weights, folder, '--out', out)
    assert code == 1 and 'missing' in err
    assert run(FINETUNED, tmp_path / 'no.pth', folder, '--out', out)[0] == 1
    assert not out.exists()


def test_options_without_an_effect_are_named(folder, checkpoint, tmp_path):
    words = [FINETUNED, checkpoint(FINETUNED), folder / 'ä.png', '--no-draw']
    assert 'Warning' not in run(*words, '--out', tmp_path / 'plain')[1]
    options = ['--cfg-options', 'test_pipeline.0.type=X', 'foo.bar=1']
    code, out, _ = run(*words, '--out', tmp_path / 'out', *options)
    assert code == 0
    assert 'Warning: Nothing reads the setting foo; remove it.' in out
    assert 'Warning: The change of test_pipeline by an option' in out


def test_all_pictures_broken(folder, checkpoint, tmp_path):
    out = tmp_path / 'out'
    files = [folder / 'broken.jpg', folder / 'notes.txt']
    code, printed, err = run(
        FINETUNED, checkpoint(FINETUNED), *files, '--out', out
    )
    assert code == 1
    assert 'Predicted 0 of 2 pictures' in printed
    assert 'notes.txt' in err
    assert json.loads((out / 'predictions.json').read_text()) == []


@pytest.mark.parametrize('name', [VITDET, SEG_LINEAR], ids=['det', 'seg'])
def test_a_strip_that_shrinks_to_nothing_is_left_out(
    name, checkpoint, tmp_path
):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'a.png')
    Image.new('RGB', (3000, 1)).save(tmp_path / 'strip.png')
    files, out = [tmp_path / 'a.png', tmp_path / 'strip.png'], tmp_path / 'out'
    code, printed, err = run(name, checkpoint(name), *files, '--out', out)
    assert code == 1
    assert 'Predicted 1 of 2 pictures' in printed
    assert 'strip.png' in err and 'Traceback' not in err
    assert (out / 'predictions.json').is_file() or [*out.glob('label_maps/*')]


def test_places(folder, tmp_path, monkeypatch):
    """Files, folders and patterns; each file once, each name once."""
    every = [picture.name for picture in find_pictures([str(folder)])]
    assert sorted(every) == sorted([*SIZES, 'broken.jpg'])
    twice = find_pictures([str(folder), str(folder / 'ä.png')])
    assert len(twice) == 5
    deep = find_pictures([f'{folder}/**/*.png'])
    assert [one.name for one in deep] == ['inner/ä.png', 'ä.png']
    both = find_pictures([str(folder / 'inner/ä.png'), str(folder / 'ä.png')])
    assert [one.name for one in both] == ['inner/ä.png', 'ä.png']
    text = find_pictures([str(folder / 'notes.txt')])  # named by a person
    assert [one.name for one in text] == ['notes.txt']
    monkeypatch.chdir(folder)
    assert find_pictures(['ä.png'])[0].name == 'ä.png'
    odd = tmp_path / f'{"ü" * 120}.png'
    Image.new('RGB', (8, 8)).save(odd)
    (found,) = find_pictures([str(odd)])
    assert len(found.name.encode()) <= 200 and found.name.endswith('.png')
    (tmp_path / '[a]*.png').write_bytes(odd.read_bytes())
    (found,) = find_pictures([str(tmp_path / '[a]*.png')])
    assert found.name == '[a]*.png'


@pytest.mark.parametrize(
    ('names', 'results'),
    [
        (['0.png', 'b.JPG', 'c.PNG'], ['0.png', 'b.png', 'c.png']),
        (['a.jpg', 'a.png'], ['a.jpg.png', 'a.png']),
        (['a.jpg', 'A.tif'], ['A.tif.png', 'a.jpg.png']),
        (['a.gif', 'a.jpg', 'a.gif.png'], None),
        (['x/a.jpg', 'y/a.png'], ['x/a.png', 'y/a.png']),
        (['v1.2.jpg', 'v1.3.jpg'], ['v1.2.png', 'v1.3.png']),
        ([f'{"é" * 99}.jpg', f'{"é" * 98}.jpg'], None),
    ],
)
def test_results_have_one_ending_and_replace_no_other(
    names, results, tmp_path
):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_pictures([str(tmp_path)])
    written = [one.result for one in found]
    assert len({one.lower() for one in written}) == len(names)
    assert all(one.endswith('.png') for one in written)
    if results is not None:
        assert written == results
    files = find_pictures([str(tmp_path / name) for name in names])
    assert len({one.result for one in files}) == len(names)


def test_a_file_that_is_no_picture_by_its_ending(tmp_path):
    for name in ('scan.01', 'scan.02'):
        (tmp_path / name).touch()
    found = find_pictures(
        [str(tmp_path / 'scan.01'), str(tmp_path / 'scan.02')]
    )
    assert [one.result for one in found] == ['scan.01.png', 'scan.02.png']


def head(count: int) -> torch.nn.Module:
    model = torch.nn.Module()
    model.head = torch.nn.Identity()
    model.head.num_classes = count
    return model


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a checkout may have the demo's classes
    config = Config.fromfile(config_path(UPERNET))
    known = [*config.scenes.metainfo.classes]
    mine = dict(dataset_meta=dict(classes=('a', 'b')))
    assert class_names(config, mine, head(2)) == ['a', 'b']
    assert class_names(config, {}, head(14)) == known
    assert class_names(config, dict(CLASSES=('a', 'b')), head(2)) == ['a', 'b']
    with pytest.raises(SimimError, match=r'has 3 classes.*config names 14'):
        class_names(config, {}, head(3))
    with pytest.raises(SimimError, match=r'checkpoint names 2 \(a, b\);'):
        class_names(config, mine, head(3))
    with pytest.raises(SimimError, match='no head with classes'):
        class_names(config, {}, torch.nn.Identity())
    bare = Config.fromfile(config_path(FINETUNED))
    assert class_names(bare, {}, head(2)) == ['class 0', 'class 1']


def test_drawn_masks_and_boxes():
    """A mask changes its pixels; a box keeps those inside it."""
    image = np.full((600, 800, 3), 90, np.uint8)
    mask = np.zeros((1, 600, 800), bool)
    mask[0, 100:200, 100:200] = True
    boxes = np.array([[90.0, 90, 210, 210]])
    drawn = np.asarray(
        drawing.draw_objects(image, boxes, mask, ['x'], [0.5], [(250, 0, 0)])
    )
    assert drawn[150, 150].tolist() == [170, 45, 45]
    assert drawn[205, 150].tolist() == [90, 90, 90]
    assert drawn[210, 150].tolist() == [250, 0, 0]
    assert len({*drawing.class_colours(80)}) == 80
    assert drawing.percent('a\n\x1b' + 'b' * 50, 0.5).endswith('b... 50 %')
