"""Annotations of any tool are read right, counted, or refused."""

import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.datasets.transforms.loading import (
    LoadAnnotations as StockAnnotations,
)
from mmdet.registry import DATASETS, HOOKS, METRICS, MODELS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import Config
from mmengine.dataset import RepeatDataset, pseudo_collate
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from simim_plugin import config_path
from simim_plugin.detection import annotations
from simim_plugin.errors import SimimError

from . import DEMO

CLASSES = ('disc', 'bar')
IDS = {'disc': 3, 'bar': 7}
COLOURS = {'disc': (255, 60, 60), 'bar': (60, 255, 60)}
SIZE = (64, 48)  # width, height


def outline(name: str, x: int, y: int) -> list[float]:
    if name == 'bar':
        return [x, y, x + 20, y, x + 20, y + 8, x, y + 8]
    turns = np.linspace(0, 2 * np.pi, 16)
    points = np.stack([x + 10 + 10 * np.cos(turns), y + 10 * np.sin(turns)])
    return points.T.ravel().tolist()


def as_runs(polygon: list[float], compressed: bool = False) -> dict:
    width, height = SIZE
    (run,) = coco_mask.frPyObjects([polygon], height, width)
    if compressed:
        return dict(run, counts=run['counts'].decode())
    pixels = coco_mask.decode(run).flatten('F')
    edges = np.flatnonzero(np.diff(pixels, prepend=0, append=2))
    counts = np.diff(edges, prepend=0).tolist()
    return dict(size=[height, width], counts=counts)


MASKS = {
    'polygon': lambda polygon: [polygon],
    'runs': as_runs,
    'compressed': lambda polygon: as_runs(polygon, compressed=True),
    'empty': lambda polygon: [],
    'none': lambda polygon: None,
}


def make(root: Path, masks='polygon', count=4, names=None) -> Path:
    """Write images of a disc and a bar each, and their annotations."""
    (root / 'images').mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    images, objects = [], []
    for k in range(count):
        file_name = names[k] if names else f'{k}.png'
        picture = Image.new('RGB', SIZE, (k, 0, 0))
        for name in CLASSES:
            x, y = map(int, draw.integers(12, 26, 2))
            polygon = outline(name, x, y)
            ImageDraw.Draw(picture).polygon(polygon, fill=COLOURS[name])
            xs, ys = polygon[::2], polygon[1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            ann = dict(
                id=len(objects) + 1,
                image_id=k,
                category_id=IDS[name],
                bbox=box,
                area=box[2] * box[3],
                iscrowd=0,
                segmentation=MASKS[masks](polygon),
            )
            if masks == 'none':
                del ann['segmentation']
            objects.append(ann)
        picture.save(root / 'images' / file_name)
        width, height = SIZE
        images.append(
            dict(id=k, file_name=file_name, width=width, height=height)
        )
    categories = [dict(id=i, name=name) for name, i in IDS.items()]
    write(
        root,
        dict(images=images, annotations=objects, categories=categories),
    )
    return root


def write(root: Path, content: object) -> None:
    (root / 'all.json').write_text(json.dumps(content), encoding='utf-8')


def content_of(root: Path) -> dict:
    return json.loads((root / 'all.json').read_text(encoding='utf-8'))


def settings(root: Path, **changes) -> dict:
    config = Config.fromfile(DEMO)
    given = dict(
        config.train_dataloader.dataset,
        data_root=str(root),
        ann_file='all.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
    )
    return {**given, **changes}


def build(root: Path, **changes):
    return DATASETS.build(settings(root, **changes))


LOAD = [
    dict(type='LoadImageFromFile'),
    dict(
        type='LoadInstances', with_bbox=True, with_mask=True, poly2mask=False
    ),
]


def refused(root: Path, **changes) -> str:
    with pytest.raises(SimimError) as caught:
        build(root, **changes)
    message = str(caught.value)
    assert '\n' not in message
    return message


@pytest.mark.parametrize('masks', ['runs', 'compressed'])
def test_run_length_masks_are_decoded(masks, tmp_path):
    """To the pixels of the polygons from which they were made."""
    polygons = build(make(tmp_path / 'a'), pipeline=LOAD)
    runs = build(make(tmp_path / 'b', masks), pipeline=LOAD)
    for wanted, got in zip(polygons, runs, strict=True):
        assert isinstance(wanted['gt_masks'], PolygonMasks)
        assert isinstance(got['gt_masks'], BitmapMasks)
        assert not got['gt_ignore_flags'].any()
        found = got['gt_masks'].to_ndarray()
        assert np.array_equal(found, wanted['gt_masks'].to_ndarray())
        for mask, colour in zip(found, COLOURS.values(), strict=True):
            inside = got['img'][mask > 0][:, ::-1]
            # The later object may cover the earlier.
            assert (inside == colour).all(axis=1).mean() > 0.5


def test_holes_and_crowds_of_run_length_masks(tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    ring = np.zeros(SIZE[::-1], np.uint8)
    ring[10:30, 10:30] = 1
    ring[15:25, 15:25] = 0
    run = coco_mask.encode(np.asfortranarray(ring))
    run['counts'] = run['counts'].decode()
    content['annotations'][0]['segmentation'] = run
    content['annotations'][2].update(segmentation=run, iscrowd=1)
    del content['annotations'][4]['segmentation']
    content['annotations'][4]['iscrowd'] = 1
    write(root, content)
    first, second, third, _ = build(root, pipeline=LOAD)
    assert np.array_equal(first['gt_masks'].to_ndarray()[0], ring)
    assert isinstance(second['gt_masks'], PolygonMasks)  # as of COCO
    for sample in (second, third):
        assert sample['gt_ignore_flags'].tolist() == [True, False]


def test_run_length_masks_are_learned(tmp_path):
    """Boxes after the crop surround the masks, and every loss has objects."""
    dataset = build(make(tmp_path, 'runs'))
    for sample in dataset:
        found = sample['data_samples'].gt_instances
        for box, mask in zip(found.bboxes, found.masks.masks, strict=True):
            ys, xs = mask.nonzero()
            edges = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert box.tensor[0].tolist() == edges
    config = Config.fromfile(DEMO)
    for head in (
        config.model.roi_head.bbox_head,
        config.model.roi_head.mask_head,
    ):
        head.num_classes = 2
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    batch = pseudo_collate([dataset[k] for k in range(4)])
    batch = model.data_preprocessor(batch, training=True)
    losses = model(**batch, mode='loss')
    assert losses['loss_bbox'] > 0 and losses['loss_mask'] > 0


def test_other_loaders_of_run_length_masks_are_refused(tmp_path):
    root = make(tmp_path, 'runs')
    stock = [LOAD[0], dict(LOAD[1], type=StockAnnotations)]
    message = refused(root, pipeline=stock)
    assert 'has 8 run-length masks, which LoadAnnotations drops' in message
    stock[1]['poly2mask'] = True
    assert len(build(root, pipeline=stock)) == 4


@pytest.mark.parametrize(
    'change',
    [
        dict(size=[64, 48]),
        dict(size=None),
        dict(counts=[5, 6]),
        dict(counts=None),
    ],
    ids=str,
)
def test_unfit_run_length_masks_are_refused(change, tmp_path):
    root = make(tmp_path, 'runs')
    content = content_of(root)
    content['annotations'][3]['segmentation'].update(change)
    write(root, content)
    message = refused(root)
    assert '1 of 8 objects with a run-length mask of another size' in message
    assert '(1.png)' in message


def test_broken_compressed_masks_are_named(tmp_path):
    root = make(tmp_path, 'compressed')
    content = content_of(root)
    content['annotations'][3]['segmentation']['counts'] = 'oops!'
    write(root, content)
    dataset = build(root, type='CocoDataset', pipeline=LOAD)
    with pytest.raises(SimimError, match=r'Cannot decode .*/images/1\.png'):
        dataset[1]


SPOILED = {
    'with a box of less than a pixel': dict(bbox=[5, 5, 0, 9]),
    'outside their image': dict(bbox=[100, 5, 9, 9]),
    'with an area of 0': dict(area=0),
    'marked as ignored': dict(ignore=1),
    'of other categories': dict(category_id=9),
    'of images that are not listed': dict(image_id=77),
    annotations.CROWD: dict(iscrowd=1),
    annotations.FEW_POINTS: dict(segmentation=[[1, 2, 3, 4], [5]]),
}


@pytest.fixture
def warned(monkeypatch):
    """What the data sets say."""
    lines: list[str] = []
    for module in ('detection.datasets', 'segmentation.label_maps'):
        monkeypatch.setattr(
            f'simim_plugin.{module}.print_log',
            lambda line, *args: lines.append(line),
            raising=False,
        )
    return lines


@pytest.mark.parametrize('reason', SPOILED)
def test_objects_left_out_are_counted(reason, tmp_path, warned):
    root = make(tmp_path)
    whole = build(root)
    assert not warned
    content = content_of(root)
    for k in (0, 2, 3):
        content['annotations'][k].update(SPOILED[reason])
    write(root, content)
    dataset = build(root, pipeline=LOAD, filter_cfg=None)
    kept = [int((~sample['gt_ignore_flags']).sum()) for sample in dataset]
    assert kept == [1, 0, 2, 2]
    places = 'id 77' if 'listed' in reason else '0.png, 1.png'
    end = ' Images with crowd regions only: 1.' if 'crowd' in reason else ''
    assert warned == [
        f'{root}/all.json has 4 images. Left out: 3 {reason} ({places}).{end}'
    ]
    assert len(whole) == 4


def test_no_object_left_says_why(tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    for ann in content['annotations']:
        ann['area'] = 0
    write(root, content)
    message = refused(root)
    assert 'no object' in message
    assert '8 with an area of 0 (0.png, 1.png, 2.png, ...)' in message


def test_few_points_are_refused_by_the_evaluation(tmp_path):
    """The COCO API would read four numbers as a box."""
    root = make(tmp_path)
    content = content_of(root)
    content['annotations'][2]['segmentation'] = [[1, 2, 3, 4]]
    write(root, content)
    assert len(build(root)) == 4
    message = refused(root, test_mode=True)
    assert '1 of 8 objects with polygons of fewer than three points' in message


@pytest.mark.parametrize('masks', ['none', 'empty'])
def test_boxes_without_masks(masks, tmp_path):
    """Refused with the name of a config that trains them."""
    root = make(tmp_path, masks)
    for test_mode in (False, True):
        message = refused(root, test_mode=test_mode)
        assert 'has 8 of 8 objects without a mask (0.png, 1.png' in message
        assert annotations.BOXES_ONLY in message
    faster = Config.fromfile(config_path(annotations.BOXES_ONLY))
    for loader in (faster.train_dataloader, faster.val_dataloader):
        dataset = build(
            root,
            pipeline=loader.dataset.pipeline,
            test_mode=loader.dataset.get('test_mode', False),
        )
        sample = dataset[0]['data_samples'].gt_instances
        assert 'masks' not in sample
        assert sample.labels.tolist() == [0, 1]


@pytest.mark.parametrize('wrap', [lambda x: x, lambda x: RepeatDataset(x, 2)])
def test_a_mask_head_without_masks(tmp_path, wrap):
    """A config of one's own that forgets the head."""
    boxes = [LOAD[0], dict(LOAD[1], with_mask=False)]
    hook = HOOKS.build(dict(type='MaskHook'))
    model = MODELS.build(Config.fromfile(DEMO).model)
    root = make(tmp_path)
    for pipeline in (LOAD, boxes):
        dataset = wrap(build(root, pipeline=pipeline))
        loader = SimpleNamespace(dataset=dataset)
        runner = SimpleNamespace(model=model, train_dataloader=loader)
        if pipeline is LOAD:
            hook.before_train(runner)
            continue
        with pytest.raises(SimimError, match='has a mask head and the train'):
            hook.before_train(runner)
    model.roi_head.mask_head = None
    hook.before_train(runner)


def test_a_single_object_without_mask_is_named(tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    content['annotations'][5]['segmentation'] = []
    write(root, content)
    assert '1 of 8 objects without a mask (2.png)' in refused(root)


def test_a_polygon_that_is_not_in_a_list(tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    ann = content['annotations'][5]
    ann['segmentation'] = ann['segmentation'][0]
    write(root, content)
    message = refused(root)
    assert '1 of 8 objects with a polygon that is no list in a list' in message


def test_boxes_of_corners_are_noticed(tmp_path, warned):
    root = make(tmp_path)
    content = content_of(root)
    for ann in content['annotations']:
        x, y, width, height = ann['bbox']
        ann['bbox'] = [x, y, x + width, y + height]
    write(root, content)
    build(root)
    (line,) = warned
    assert 'Of 8 boxes 3 reach beyond their image (0.png, 2.png, ' in line


def perfect_score(train, val, metric: dict) -> dict:
    """Score the truth of `val`, with the labels that `train` teaches."""
    metric = METRICS.build(metric)
    metric.dataset_meta = val.metainfo
    names = train.metainfo['classes']
    for k in range(len(val)):
        info = val.get_data_info(k)
        objects = info['instances']
        given = [val.metainfo['classes'][o['bbox_label']] for o in objects]
        found = dict(
            bboxes=torch.tensor([o['bbox'] for o in objects]),
            scores=torch.ones(len(objects)),
            labels=torch.tensor([names.index(name) for name in given]),
        )
        metric.process(
            {},
            [
                dict(
                    img_id=info['img_id'], ori_shape=SIZE, pred_instances=found
                )
            ],
        )
    return metric.evaluate(len(val))


def names_of_labels(dataset) -> set[tuple[str, tuple]]:
    """Return the class and the colour of every object's centre."""
    found = set()
    for k in range(len(dataset)):
        info = dataset.get_data_info(k)
        pixels = np.asarray(Image.open(info['img_path']))
        # The bar is drawn last, and lies above the disc's centre.
        (bar,) = (
            o
            for o in info['instances']
            if dataset.metainfo['classes'][o['bbox_label']] == 'bar'
        )
        left, top, right, bottom = bar['bbox']
        colour = pixels[int(top + bottom) // 2, int(left + right) // 2]
        found.add(('bar', tuple(colour.tolist())))
    return found


@pytest.mark.parametrize('test_mode', [False, True], ids=['train', 'val'])
def test_labels_follow_names(test_mode, tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    content['categories'].reverse()
    write(root, content)
    for classes in (CLASSES, CLASSES[::-1]):
        dataset = build(
            root, test_mode=test_mode, metainfo=dict(classes=classes)
        )
        assert names_of_labels(dataset) == {('bar', COLOURS['bar'])}


def test_perfect_detections_of_a_file_in_another_order(tmp_path):
    train = build(make(tmp_path / 'train'))
    root = make(tmp_path / 'val')
    content = content_of(root)
    content['categories'].reverse()
    for k, ann in enumerate(content['annotations']):
        del ann['iscrowd']
        if k % 2:  # as other tools write no crowd
            ann['iscrowd'] = None
    # One class is missed in half of the images. Editors write a BOM.
    text = json.dumps(content)
    (root / 'all.json').write_text(text, encoding='utf-8-sig')
    val = build(root, test_mode=True)
    metric = dict(
        type='CocoMetric',
        ann_file=str(root / 'all.json'),
        metric='bbox',
        classwise=True,
    )
    scores = perfect_score(train, val, metric)
    write(root, content)
    assert scores['coco/bbox_mAP'] == pytest.approx(1)
    for name in CLASSES:
        assert scores[f'coco/{name}_precision'] == 1
    # MMDetection's data set and metric agree with each other.
    stock = build(root, test_mode=True, type='CocoDataset', pipeline=[])
    scores = perfect_score(stock, stock, metric)
    assert scores['coco/bbox_mAP'] == pytest.approx(1)


def test_scores_of_single_classes_keep_their_names(tmp_path):
    root = make(tmp_path)
    classes = CLASSES[::-1]
    dataset = build(root, test_mode=True, metainfo=dict(classes=classes))
    metric = METRICS.build(
        dict(
            type='CocoMetric',
            ann_file=str(root / 'all.json'),
            metric='bbox',
            classwise=True,
        )
    )
    metric.dataset_meta = dataset.metainfo
    for k in range(len(dataset)):
        info = dataset.get_data_info(k)
        bars = [o for o in info['instances'] if o['bbox_label'] == 0]
        found = dict(
            bboxes=torch.tensor([o['bbox'] for o in bars]),
            scores=torch.ones(len(bars)),
            labels=torch.zeros(len(bars), dtype=torch.long),
        )
        metric.process(
            {},
            [
                dict(
                    img_id=info['img_id'], ori_shape=SIZE, pred_instances=found
                )
            ],
        )
    for _ in range(2):
        results = [*metric.results]
        scores = metric.evaluate(len(dataset))
        assert scores['coco/bar_precision'] == 1
        assert scores['coco/disc_precision'] == 0
        metric.results = results


def test_lvis_categories_in_another_order(tmp_path):
    """Any order in the file; the classes in the order of the ids."""
    root = make(tmp_path)
    content = content_of(root)
    content['categories'].reverse()
    for category in content['categories']:
        category.update(image_count=4, frequency='f')
    write(root, content)
    lvis = dict(type='CheckedLVISDataset', filter_cfg=None)
    dataset = build(root, **lvis)
    assert names_of_labels(dataset) == {('bar', COLOURS['bar'])}
    metric = dict(
        type='NumPy2LVISMetric',
        ann_file=str(root / 'all.json'),
        metric='bbox',
    )
    scores = perfect_score(dataset, dataset, metric)
    assert scores['lvis/bbox_AP'] == 1
    message = refused(root, **lvis, metainfo=dict(classes=CLASSES[::-1]))
    assert '(bar stands where the file has disc)' in message
    assert 'in the order of their ids' in message


def test_a_name_that_lvis_spells_otherwise():
    names = ['ball', 'speaker_(stero_equipment)', 'zebra']
    listed = [dict(id=k, name=name) for k, name in enumerate(names)]
    classes = ('ball', 'speaker_(stereo_equipment)', 'zebra')
    find = annotations.ordered_category_ids
    assert find('a.json', listed, classes) == [0, 1, 2]
    alike = ['a_very_long_name_of_class_1', 'a_very_long_name_of_class_2']
    listed = [dict(id=k, name=name) for k, name in enumerate(alike)]
    with pytest.raises(SimimError, match='another order than the ids'):
        find('a.json', listed, alike[::-1])


def test_one_class_of_several_is_trained(tmp_path, warned):
    dataset = build(make(tmp_path), metainfo=dict(classes=('bar',)))
    assert names_of_labels(dataset) == {('bar', COLOURS['bar'])}
    (line,) = warned
    assert 'Left out: 4 of other categories (0.png, 1.png, 2.png, ...)' in line


def test_categories_of_one_name_are_refused(tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    content['categories'].append(dict(id=8, name='bar'))
    write(root, content)
    assert '1 names with several categories (bar)' in refused(root)
    content['categories'][1]['name'] = 'Bar'
    content['categories'].pop()
    write(root, content)
    message = refused(root)
    assert 'of which the annotation file' in message
    assert 'it lacks bar and has disc, Bar' in message


NAMES = [
    'sørøya ß 海.png',
    'two  blanks .png',
    'dots..and.more.png',
    '../elsewhere/ünder.png',
]


def test_file_names(tmp_path):
    """Non-ASCII, blanks, dots and parent folders, in a file with a BOM."""
    (tmp_path / 'elsewhere').mkdir()
    root = make(tmp_path, names=NAMES)
    text = json.dumps(content_of(root), ensure_ascii=False)
    (root / 'all.json').write_text(text, encoding='utf-8-sig')
    for k, sample in enumerate(build(root, pipeline=LOAD)):
        assert sample['img'][0, 0].tolist() == [0, 0, k]


def test_names_with_accents_from_another_system(tmp_path):
    root = make(tmp_path, count=2, names=['é.png', 'è.png'])
    folder = root / 'images'
    apart = [unicodedata.normalize('NFD', name) for name in ('é.png', 'è.png')]
    assert len(apart[0]) == 6
    (folder / 'é.png').rename(folder / apart[0])
    content = content_of(root)
    content['images'][1]['file_name'] = apart[1]
    write(root, content)
    for k, sample in enumerate(build(root, pipeline=LOAD)):
        assert sample['img'][0, 0].tolist() == [0, 0, k]


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('{"images": [', 'is no JSON in UTF-8'),
        ('[]', 'is not in the format of COCO'),
        ('{"images": []}', 'is not in the format of COCO'),
    ],
    ids=['cut', 'list', 'part'],
)
def test_other_files_are_refused(text, match, tmp_path):
    root = make(tmp_path)
    (root / 'all.json').write_text(text)
    assert match in refused(root)


@pytest.mark.parametrize(
    ('part', 'key'),
    [
        ('images', 'height'),
        ('annotations', 'area'),
        ('annotations', 'bbox'),
        ('categories', 'name'),
    ],
)
def test_entries_without_a_key_are_counted(part, key, tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    del content[part][0][key], content[part][1][key]
    write(root, content)
    count = len(content[part])
    assert f'has 2 of {count} {part} without {key};' in refused(root)


@pytest.mark.parametrize('part', ['images', 'annotations', 'categories'])
def test_an_id_that_occurs_twice(part, tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    content[part][1]['id'] = content[part][0]['id']
    write(root, content)
    assert f'several {part} with the id' in refused(root)


WRONG_VALUES = {
    'annotations/bbox': [None, [], [1, 2, 3], ['1', '2', '3', '4'], {'x': 1}],
    'annotations/area': [None, '300'],
    'annotations/iscrowd': ['0', 2],
    'images/width': [None, '64', 0],
    'images/file_name': [None, 7],
    'categories/name': [None, 7],
}


@pytest.mark.parametrize('where', WRONG_VALUES)
def test_values_of_another_type_are_named(where, tmp_path):
    part, key = where.split('/')
    root = make(tmp_path)
    whole = content_of(root)
    for value in WRONG_VALUES[where]:
        content = json.loads(json.dumps(whole))
        content[part][1][key] = value
        write(root, content)
        message = refused(root)
        assert f'1 of {len(whole[part])} {part} whose {key} is not ' in message
        assert f'(id {content[part][1]["id"]}: {key} {value!r}' in message


@pytest.mark.parametrize(
    ('part', 'value'),
    [('annotations', None), ('annotations', {}), ('categories', ['a', 'b'])],
    ids=str,
)
def test_parts_of_another_type_are_named(part, value, tmp_path):
    root = make(tmp_path)
    write(root, content_of(root) | {part: value})
    assert f'{part} is no list of dictionaries' in refused(root)


def test_images_without_a_name(tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    del content['images'][2]['file_name']
    write(root, content)
    assert '1 of 4 images without file_name' in refused(root)


def test_images_with_an_address_alone(tmp_path):
    """LVIS's file has no file_name, and a COCO set does not guess it."""
    root = make(tmp_path)
    content = content_of(root)
    for image in content['images']:
        name = image.pop('file_name')
        image['coco_url'] = f'http://images.cocodataset.org/{name}'
    write(root, content)
    message = refused(root)
    assert 'the image with the id 0 has no file_name' in message
    assert 'CheckedLVISDataset' in message


def test_flags_of_other_tools_and_numbers_with_a_point(tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    for k, flag in enumerate((None, False, 0.0)):
        content['annotations'][k]['iscrowd'] = flag
    for ann in content['annotations']:
        for key in ('image_id', 'category_id', 'id'):
            ann[key] = float(ann[key])
    write(root, content)
    for sample in build(root, pipeline=LOAD):
        assert sample['gt_bboxes_labels'].tolist() == [0, 1]
        assert not sample['gt_ignore_flags'].any()


@pytest.mark.parametrize('value', [float('nan'), float('inf')], ids=str)
@pytest.mark.parametrize('key', ['bbox', 'segmentation', 'area'])
def test_no_numbers(key, value, tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    box = [value, 1, 2, 3]
    wrong = dict(bbox=box, area=value, segmentation=[[*box, 4, 5]])
    content['annotations'][0][key] = wrong[key]
    write(root, content)
    assert ' is no JSON in UTF-8 (it holds ' in refused(root)


@pytest.mark.parametrize(
    ('mask', 'kind'),
    [
        ([[[5, 6], [25, 6], [25, 21]]], annotations.OTHER),
        ('5 6 25 6 25 21', annotations.OTHER),
        ([['5', '6', '25', '6', '25', '21']], annotations.OTHER),
        ([dict(size=[48, 64], counts=[3072])], annotations.OTHER),
        ([[0.1, 0.1, 0.4, 0.1, 0.4, 0.5]], annotations.SHARES),
        ([[5, 6, 25, 6, 25, 1e308]], annotations.OUTSIDE),  # ends the process
        ([[5, 6, 25, 6, 25, 2**31]], annotations.OUTSIDE),  # takes 80 GB
        ([[5, 6, 25, 6, 25, None]], annotations.OTHER),
        (7, annotations.OTHER),
        ([[]], annotations.FEW_POINTS),
    ],
    ids=[
        'pairs',
        'text',
        'texts',
        'run-lengths in a list',
        'fractions',
        'overflow',
        'far',
        'none',
        'number',
        'nothing',
    ],
)
def test_polygons_of_other_tools(mask, kind, tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    content['annotations'][3]['segmentation'] = mask
    write(root, content)
    trains = kind == annotations.FEW_POINTS  # and leaves the object out
    for test_mode in (True,) if trains else (False, True):
        message = refused(root, test_mode=test_mode)
        assert f'1 of 8 objects {kind} (1.png)' in message


@pytest.mark.parametrize(
    'change',
    [dict(size=[480, 64]), dict(counts=[-5, 3077]), dict(counts=['x'])],
    ids=str,
)
def test_broken_masks_of_crowds_are_refused(change, tmp_path):
    root = make(tmp_path, 'runs')
    content = content_of(root)
    crowd = content['annotations'][3]
    crowd.update(iscrowd=1, segmentation=crowd['segmentation'] | change)
    write(root, content)
    assert f'1 of 8 objects {annotations.UNFIT} (1.png)' in refused(root)


def compressed(height: int, width: int) -> str:
    mask = np.zeros((height, width), np.uint8, order='F')
    mask[3:12, 3:15] = 1
    return coco_mask.encode(mask)['counts'].decode()


@pytest.mark.parametrize(
    'counts',
    [compressed(24, 32), compressed(96, 128), '', 'PP', 'abc', '~~~', 'é'],
    ids=['half the size', 'double the size', 'none', 'end', 'few', 'no', 'é'],
)
def test_compressed_runs_of_other_pixels_are_refused(counts, tmp_path):
    """pycocotools would decode them to memory that nothing wrote."""
    root = make(tmp_path)
    content = content_of(root)
    runs = dict(size=[SIZE[1], SIZE[0]], counts=counts)
    content['annotations'][3]['segmentation'] = runs
    write(root, content)
    assert f'1 of 8 objects {annotations.UNFIT} (1.png)' in refused(root)


@given(st.data())
def test_pixels_of_compressed_runs(data):
    sides = st.integers(1, 70)
    shape = data.draw(sides), data.draw(sides)
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mask = draw.random(shape) < data.draw(st.floats(0, 1))
    runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))['counts']
    assert annotations._pixels(runs.decode()) == mask.size


def test_a_polygon_of_one_pixel_is_not_in_fractions(tmp_path):
    root = make(tmp_path)
    content = content_of(root)
    corner = dict(bbox=[0, 0, 1, 1], segmentation=[[0, 0, 1, 0, 1, 1, 0, 1]])
    content['annotations'][3].update(corner)
    content['annotations'][2]['segmentation'].insert(0, [0, 0, 1, 0, 1, 1])
    write(root, content)
    assert len(build(root)) == 4
    content['annotations'][3]['bbox'] = [12, 12, 20, 8]
    write(root, content)
    assert f'1 of 8 objects {annotations.SHARES} (1.png)' in refused(root)


def test_a_tower_of_brackets(tmp_path):
    root = make(tmp_path)
    (root / 'all.json').write_text('[' * 100_000)
    assert ' is no JSON in UTF-8 (' in refused(root)
