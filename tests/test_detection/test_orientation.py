"""Boxes lie on their objects, however a camera turned the picture."""

import json
from types import SimpleNamespace
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw

from simim_plugin.datasets import annotated
from simim_plugin.detection import PNGVisualizationHook, hooks
from simim_plugin.errors import SimimError

BOX = (50, 10, 20, 12)
"""x, y, width and height of a bright object in 96 x 64 dark pixels."""

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'upright')),
]


def picture(tag, size=(96, 64), box=BOX):
    image = Image.new('RGB', size, (20, 20, 20))
    x, y, width, height = box
    draw = ImageDraw.Draw(image)
    draw.rectangle((x, y, x + width - 1, y + height - 1), (250, 240, 200))
    exif = Image.Exif()
    if tag:
        exif[0x0112] = tag
    return image, exif


def write(root, tags, size=(96, 64), stated=None, box=BOX, ending='jpg'):
    """Write a COCO set of one object an image; return its options."""
    images, objects = [], []
    for k, tag in enumerate(tags):
        image, exif = picture(tag, size)
        image.save(root / f'{k}.{ending}', exif=exif, quality=95)
        width, height = stated or size
        name = f'{k}.{ending}'
        images.append(
            dict(id=k + 1, file_name=name, width=width, height=height)
        )
        objects.append(
            dict(
                id=k + 1,
                image_id=k + 1,
                category_id=1,
                bbox=list(box),
                area=box[2] * box[3],
                iscrowd=0,
            )
        )
    content = dict(
        images=images,
        annotations=objects,
        categories=[dict(id=1, name='thing')],
    )
    (root / 'train.json').write_text(json.dumps(content))
    return dict(
        type='CheckedCocoDataset',
        data_root=str(root),
        ann_file='train.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('thing',)),
        pipeline=PIPELINE,
    )


def on_object(item) -> bool:
    """Return whether the box holds the bright pixels and nothing else."""
    boxes = item['data_samples'].gt_instances.bboxes
    ((x0, y0, x1, y1),) = boxes.tensor.int().tolist()
    bright = item['inputs'].amin(0) > 128
    return bool(bright[y0:y1, x0:x1].float().mean() > 0.9) and bool(
        bright.sum() <= 1.1 * (x1 - x0) * (y1 - y0)
    )


@pytest.mark.parametrize('ending', ['jpg', 'png', 'webp'])
@pytest.mark.parametrize('tag', range(1, 9))
def test_annotations_of_the_stored_pixels(tmp_path, tag, ending):
    item = DATASETS.build(write(tmp_path, [tag], ending=ending))[0]
    assert item['inputs'].shape == (3, 64, 96)
    assert on_object(item)


def upright(tag):
    """The box in 96 x 64 pixels turned upright, and the upright size."""
    from simim_plugin.pictures import turn

    mask = np.zeros((64, 96), np.uint8)
    x, y, width, height = BOX
    mask[y : y + height, x : x + width] = 1
    mask = turn(mask, tag)
    return cv2.boundingRect(mask), mask.shape[::-1]


@pytest.mark.parametrize('tag', [5, 6, 7, 8])
def test_annotations_of_the_upright_picture(tmp_path, tag):
    box, size = upright(tag)
    item = DATASETS.build(write(tmp_path, [tag], stated=size, box=box))[0]
    assert item['inputs'].shape == (3, 96, 64)
    assert on_object(item)


@pytest.mark.parametrize('known', [None, True, False])
def test_a_turn_that_keeps_the_size(tmp_path, known, monkeypatch):
    """Without a sign it is read as stored, and the user is warned once."""
    sentences = []
    monkeypatch.setattr(
        annotated, 'print_log', lambda text, **_: sentences.append(text)
    )
    box = upright(3)[0] if known else BOX
    options = write(tmp_path, [3, 1], box=box)
    dataset = DATASETS.build(dict(options, upright=known))
    assert on_object(dataset[0])
    assert len(sentences) == 1
    assert ('upright=True' in sentences[0]) == (known is None)


def test_a_turn_that_keeps_the_size_follows_the_set(tmp_path):
    """The second image is square; the first tells of what it is."""
    tall, size = upright(6)
    options = write(tmp_path, [6, 6], stated=size, box=tall)
    square, exif = picture(6, (64, 64), (40, 10, 20, 12))
    square.save(tmp_path / '1.jpg', exif=exif, quality=95)
    content = json.loads((tmp_path / 'train.json').read_text())
    content['images'][1].update(width=64, height=64)
    content['annotations'][1]['bbox'] = [64 - 22, 40, 12, 20]
    (tmp_path / 'train.json').write_text(json.dumps(content))
    dataset = DATASETS.build(options)
    assert on_object(dataset[0])
    assert on_object(dataset[1])


def test_another_size_is_refused(tmp_path):
    options = write(tmp_path, [1, 6, 1, 1, 1], stated=(96, 60))
    with pytest.raises(SimimError) as caught:
        DATASETS.build(options)
    sentences = str(caught.value)
    assert sentences.startswith('Of 5 images 5 have another size')
    assert f'{tmp_path}/0.jpg has 96 x 64 pixels' in sentences
    assert 'annotations 96 x 60' in sentences
    assert '2.jpg' in sentences
    assert '3.jpg' not in sentences


def test_pictures_without_annotations_are_upright(tmp_path):
    image, exif = picture(6)
    for ending in ('jpg', 'webp', 'png'):
        file = str(tmp_path / f'a.{ending}')
        image.save(file, exif=exif)
        load = TRANSFORMS.build(dict(type='mmdet.InferencerLoader'))
        assert load(file)['img'].shape == (96, 64, 3)


def test_arrays_are_read_like_files():
    load = TRANSFORMS.build(dict(type='mmdet.InferencerLoader'))
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for array in (grey, grey[..., None], grey.astype(np.uint16) * 257):
        assert np.array_equal(load(array)['img'], np.dstack([grey] * 3))
    colours = np.dstack([grey, grey + 1, grey + 2, grey])
    assert np.array_equal(load(colours)['img'], colours[..., :3])
    with pytest.raises(SimimError, match='is no image'):
        load(grey.astype(np.float32))


def test_lists_of_files_and_arrays(tmp_path):
    """OpenMMLab chooses the loader by the first image of a list."""
    file = tmp_path / 'a.png'
    pixels = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels[..., ::-1]).save(file)
    for name in ('LoadImageFromFile', 'LoadImageFromNDArray'):
        load = TRANSFORMS.build(dict(type=f'mmdet.{name}'))
        for given in (dict(img_path=str(file)), dict(img=pixels)):
            found = load(given)
            assert np.array_equal(found['img'], pixels)
            assert found['img_path'] == (
                str(file) if 'upright' in found else None
            )


@pytest.mark.parametrize('tag', [3, 6])
def test_drawings_are_of_the_loaded_image(tmp_path, tag):
    options = write(tmp_path, [tag])
    item = DATASETS.build(options)[0]
    drawn = []
    Visualizer.get_instance('drawings')
    hook = PNGVisualizationHook(draw=True, test_out_dir='drawn')
    hook._visualizer = SimpleNamespace(
        add_datasample=lambda name, image, **_: drawn.append(image)
    )
    runner = SimpleNamespace(work_dir=str(tmp_path), timestamp='now')
    hook.after_test_iter(runner, 0, {}, [item['data_samples']])
    rgb = item['inputs'].numpy()[::-1].transpose(1, 2, 0)
    assert np.array_equal(drawn[0], rgb)


def test_no_drawing_replaces_another(monkeypatch):
    monkeypatch.setattr(hooks, 'read_as_loaded', lambda *_: None)
    paths = ['/d/l/0.jpg', '/d/r/0.png', '/d/r/1.jpg']
    drawn = []
    Visualizer.get_instance('drawings')
    hook = PNGVisualizationHook(draw=True, test_out_dir='drawn')
    hook._visualizer = SimpleNamespace(
        add_datasample=lambda *_, out_file, **__: drawn.append(out_file)
    )
    items = [dict(img_path=path) for path in paths]
    dataset = MagicMock(get_data_info=items.__getitem__)
    dataset.__len__.return_value = len(items)
    runner = SimpleNamespace(
        work_dir='work',
        timestamp='now',
        test_dataloader=SimpleNamespace(dataset=dataset),
    )
    hook.before_test(runner)
    samples = [SimpleNamespace(img_path=path) for path in paths]
    hook.after_test_iter(runner, 0, {}, samples)
    names = ['l/0.jpg', 'r/0.png', '1']
    assert drawn == [f'work/now/drawn/{name}.png' for name in names]
