"""Demo data: scenes, annotations, the folder, and stock data sets on it."""

from __future__ import annotations

import errno
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from simim_plugin.commands.make_demo_data import main
from simim_plugin.demo import data as demo_data
from simim_plugin.demo.annotations import (
    CLASSES,
    LVIS_CLASSES,
    SEGMENTATION_CLASSES,
    URL_PREFIX,
    describe,
    is_annotated,
    label_map,
    lvis_v1,
    polygons,
)
from simim_plugin.demo.data import make_demo_data
from simim_plugin.demo.scenes import (
    SHAPES,
    TEXTURES,
    THINGS,
    Scene,
    draw_scene,
)
from simim_plugin.errors import SimimError

TRAIN, VAL, SIZE = 64, 40, (48, 80)


def scene_of(split: int, index: int) -> Scene:
    return draw_scene(0, split, index, SIZE)


def annotated(scene: Scene) -> list:
    return [i for i in scene.instances if is_annotated(i.mask, i.area)]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('data') / 'demo'
    assert make_demo_data(out, train=TRAIN, val=VAL, size=SIZE)
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


# --- scenes ----------------------------------------------------------------


@given(
    height=st.integers(16, 320),
    width=st.integers(16, 320),
    index=st.integers(0, 10**6),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=40, deadline=None)
def test_the_class_of_any_scene_covers_most_pixels(height, width, index, seed):
    scene = draw_scene(seed, 0, index, (height, width))
    assert scene.image.shape == (height, width, 3)
    assert scene.label == index % len(THINGS)
    seen = Counter()
    for item in scene.instances:
        seen[item.thing] += np.count_nonzero(item.mask)
    assert max(seen, key=seen.__getitem__) == scene.label
    assert sum(item.mask.astype(int) for item in scene.instances).max() == 1
    assert 1 <= len(annotated(scene)) <= len(scene.instances) <= 5


def test_a_scene_looks_alike_at_any_size():
    for index in range(8):
        small = draw_scene(0, 0, index, (64, 64))
        large = draw_scene(0, 0, index, (256, 256))
        shrunk = cv2.resize(
            large.image, (64, 64), interpolation=cv2.INTER_AREA
        )
        blurred = [
            cv2.GaussianBlur(image, (0, 0), 4).astype(float)
            for image in (small.image, shrunk)
        ]
        assert np.abs(blurred[0] - blurred[1]).mean() < 6
        for few, many in zip(small.instances, large.instances, strict=True):
            assert (few.thing, few.shape) == (many.thing, many.shape)
            assert few.mask.mean() == pytest.approx(many.mask.mean(), abs=0.01)


def test_a_scene_depends_on_seed_split_and_index_alone():
    first = draw_scene(3, 0, 5, (32, 32)).image
    draw_scene(3, 0, 6, (32, 32))
    np.testing.assert_array_equal(first, draw_scene(3, 0, 5, (32, 32)).image)
    for other in ((4, 0, 5), (3, 1, 5), (3, 0, 13)):
        assert (first != draw_scene(*other, (32, 32)).image).mean() > 0.5


def test_a_small_size_is_refused():
    with pytest.raises(SimimError, match='8 x 64 pixels is too small'):
        draw_scene(0, 0, 0, (8, 64))


def knn_accuracy(bank, bank_labels, queries, labels, k=20) -> float:
    """Compute the accuracy of a vote among the k nearest of the bank."""
    distance = ((queries[:, None] - bank[None]) ** 2).sum(-1)
    nearest = bank_labels[np.argsort(distance, axis=1)[:, :k]]
    votes = (nearest[..., None] == np.arange(len(CLASSES))).sum(1)
    return float((votes.argmax(1) == labels).mean())


def test_the_mean_color_predicts_little_and_the_cues_much():
    """Mean colour stays under twice chance, 25 %; all cues exceed 60 %."""
    sets = []
    for split, count in enumerate((2000, 500)):
        scenes = [draw_scene(0, split, i, (32, 32)) for i in range(count)]
        color = np.stack([s.image.mean((0, 1)) / 255 for s in scenes])
        cues = np.zeros((count, len(SHAPES) + len(TEXTURES) + 6))
        for row, scene in zip(cues, scenes, strict=True):
            for item in scene.instances:
                row[item.shape] += item.mask.mean()
                row[len(SHAPES) + item.texture] += item.mask.mean()
            row[:-6] /= row[:-6].sum()
            for ground in range(6):
                row[ground - 6] = (scene.ground == ground).mean()
        labels = np.array([s.label for s in scenes])
        sets.append((color, cues, labels))
    (color, cues, labels), (val_color, val_cues, val_labels) = sets
    assert knn_accuracy(color, labels, val_color, val_labels) < 0.25
    assert knn_accuracy(cues, labels, val_cues, val_labels) > 0.6


def test_no_cue_alone_gives_the_class():
    """The optimal guess from one cue of the main object stays under 60 %."""
    seen = {'shape': Counter(), 'texture': Counter(), 'ground': Counter()}
    total = 4000
    for index in range(total):
        scene = draw_scene(0, 0, index, (16, 16))
        own = [i for i in scene.instances if i.thing == scene.label]
        main = max(own, key=lambda item: item.area)
        kinds, counts = np.unique(scene.ground, return_counts=True)
        seen['shape'][main.shape, scene.label] += 1
        seen['texture'][main.texture, scene.label] += 1
        seen['ground'][kinds[counts.argmax()], scene.label] += 1
    for cue, pairs in seen.items():
        best = Counter()
        for (value, _), count in pairs.items():
            best[value] = max(best[value], count)
        share = sum(best.values()) / total
        assert 1.5 / len(CLASSES) < share < 0.6, (cue, share)


# --- annotations -----------------------------------------------------------


def test_polygons_cover_a_mask_with_holes_exactly():
    mask = np.zeros((9, 12), bool)
    mask[1:8, 2:9] = True
    mask[3:5, 4:6] = False
    mask[6, 7] = False
    mask[0, 11] = True
    parts = polygons(mask)
    assert len(parts) > 2
    assert all(len(part) >= 6 and len(part) % 2 == 0 for part in parts)
    assert (from_polygons(parts, mask.shape) == mask).all()


def from_polygons(parts: list, size: tuple) -> np.ndarray:
    """Draw polygons as a mask with pycocotools."""
    coco = COCO()
    coco.imgs = {1: {'height': size[0], 'width': size[1]}}
    ann = {'image_id': 1, 'segmentation': parts}
    return coco.annToMask(ann).astype(bool)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_annotations_agree_with_the_masks(root, split):
    coco = COCO(root / f'annotations/instances_{split}.json')
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(
        CLASSES
    )
    assert len(coco.imgs) == {'train': TRAIN, 'val': VAL}[split]
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for image_id, info in coco.imgs.items():
        scene = scene_of(('train', 'val').index(split), image_id - 1)
        assert (info['height'], info['width']) == SIZE
        assert f'{split}/{CLASSES[scene.label]}/' in info['file_name']
        anns = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        items = annotated(scene)
        assert len(anns) == len(items)
        for ann, item in zip(anns, items, strict=True):
            mask = coco.annToMask(ann).astype(bool)
            union = np.count_nonzero(mask | item.mask)
            assert np.count_nonzero(mask & item.mask) / union > 0.9
            assert ann['area'] == np.count_nonzero(item.mask)
            rows, cols = np.nonzero(item.mask)
            x, y, width, height = ann['bbox']
            assert (x, y) == (cols.min(), rows.min())
            assert (x + width, y + height) == (cols.max() + 1, rows.max() + 1)
            assert ann['category_id'] == item.thing + 1
            assert ann['iscrowd'] == 0


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_the_annotations_as_detections_have_ap_1(root, kind):
    truth = COCO(root / 'annotations/instances_val.json')
    found = truth.loadRes([
        {
            'image_id': ann['image_id'],
            'category_id': ann['category_id'],
            'bbox': ann['bbox'],
            'segmentation': truth.annToRLE(ann),
            'score': 1.0,
        }
        for ann in truth.anns.values()
    ])  # fmt: skip
    evaluation = COCOeval(truth, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_lvis_annotations_are_coherent(root, split):
    path = root / 'annotations' / f'lvis_v1_{split}.json'
    lvis = json.loads(path.read_text())
    training = json.loads(
        (root / 'annotations/lvis_v1_train.json').read_text()
    )
    kinds = {c['id']: c for c in lvis['categories']}
    assert [c['name'] for c in lvis['categories']] == list(LVIS_CLASSES)
    assert set(next(iter(kinds.values()))) == {
        'id', 'name', 'synset', 'synonyms', 'def', 'frequency',
        'image_count', 'instance_count',
    }  # fmt: skip
    per_image = {image['id']: [] for image in lvis['images']}
    for ann in lvis['annotations']:
        per_image[ann['image_id']].append(ann['category_id'])
    for image in lvis['images']:
        assert image['coco_url'].startswith(URL_PREFIX)
        assert (root / image['coco_url'].removeprefix(URL_PREFIX)).is_file()
        scene = scene_of(('train', 'val').index(split), image['id'] - 1)
        drawn = {
            1 + LVIS_CLASSES.index(f'{TEXTURES[i.texture]}_{SHAPES[i.shape]}')
            for i in scene.instances
        }
        hidden = image['not_exhaustive_category_ids']
        assert drawn == set(per_image[image['id']]) | set(hidden)
        assert len(image['neg_category_ids']) == 4
        assert drawn.isdisjoint(image['neg_category_ids'])
    instances = Counter(a['category_id'] for a in training['annotations'])
    images = Counter(
        category
        for _, category in {
            (a['image_id'], a['category_id']) for a in training['annotations']
        }
    )
    for category in kinds.values():
        assert category['instance_count'] == instances[category['id']]
        assert category['image_count'] == images[category['id']]


def test_lvis_frequencies_have_the_bounds_of_lvis_at_5000_images():
    found = [
        describe(draw_scene(0, 0, i, (64, 64)), '', i) for i in range(1000)
    ] * 5
    categories = lvis_v1([], found)['categories']
    assert {c['frequency'] for c in categories} == {'r', 'c', 'f'}
    for category in categories:
        images = category['image_count']
        bounds = {'r': (0, 10), 'c': (11, 100), 'f': (101, 5000)}
        low, high = bounds[category['frequency']]
        assert low <= images <= high
    negatives = Counter(kind for item in found for kind in item.absent)
    assert set(negatives) == set(range(len(LVIS_CLASSES)))


def test_label_maps_agree_with_masks_and_ground(root):
    unlabelled = 0
    for index in range(TRAIN):
        scene = scene_of(0, index)
        name = f'train/{CLASSES[scene.label]}/{index:06d}'
        labels = cv2.imread(
            str(root / f'label_maps/{name}.png'), cv2.IMREAD_UNCHANGED
        )
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, label_map(scene))
        owned = np.zeros(SIZE, bool)
        for item in scene.instances:
            shown = is_annotated(item.mask, item.area)
            assert (labels[item.mask] == (item.thing + 1) * shown).all()
            owned |= item.mask
        ground = labels[~owned].astype(int)
        clutter = scene.ground[~owned] < 0
        assert (ground[clutter] == 0).all()
        np.testing.assert_array_equal(
            ground[~clutter] - 1 - len(CLASSES),
            scene.ground[~owned][~clutter],
        )
        unlabelled += np.count_nonzero(labels == 0)
    assert unlabelled > 0


# --- the folder ------------------------------------------------------------


def test_images_show_the_scenes(root):
    for index in range(16):
        scene = scene_of(1, index)
        path = root / f'val/{CLASSES[scene.label]}/{index:06d}.jpg'
        image = cv2.imread(str(path))[..., ::-1].astype(int)
        assert np.abs(image - scene.image).mean() < 4


def test_bytes_depend_on_the_arguments_alone(root, tmp_path):
    make_demo_data(tmp_path / 'a', train=TRAIN, val=VAL, size=SIZE)
    make_demo_data(tmp_path / 'b', train=TRAIN, val=VAL, size=SIZE, seed=1)
    assert contents(tmp_path / 'a') == contents(root)
    here, there = contents(root), contents(tmp_path / 'b')
    assert here.keys() == there.keys()
    same = [name for name in here if here[name] == there[name]]
    assert same == []


def test_a_folder_is_reused_replaced_or_refused(tmp_path):
    out = tmp_path / 'demo'
    assert make_demo_data(out, train=8, val=8, size=32)
    assert not make_demo_data(out, train=8, val=8, size=(32, 32))
    with pytest.raises(SimimError, match='--overwrite'):
        make_demo_data(out, train=9, val=8, size=32)
    (out / 'notes.txt').write_text('mine')
    with pytest.raises(SimimError, match=r'notes\.txt beside demo data'):
        make_demo_data(out, train=9, val=8, size=32, overwrite=True)
    (out / 'notes.txt').unlink()
    assert make_demo_data(out, train=9, val=8, size=32, overwrite=True)
    assert len(list(out.glob('train/*/*.jpg'))) == 9
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(SimimError, match='no demo data'):
        make_demo_data(tmp_path, train=1, val=1, overwrite=True)
    assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


@pytest.mark.parametrize(
    'bad', [{'train': 0}, {'val': 0}, {'size': 15}, {'seed': -1}]
)
def test_arguments_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(SimimError, match='at least 1 image per split'):
        make_demo_data(tmp_path / 'demo', **bad)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path, monkeypatch, capsys
):
    write, left = demo_data._write_image, [5]

    def full(*args):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, 'No space left on device')
        write(*args)

    monkeypatch.setattr(demo_data, '_write_image', full)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / 'demo'), '--train', '9', '--val', '9'])
    assert stop.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f'error: The disk of {tmp_path / "demo"} is full')
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_data, '_write_image', interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_demo_data(tmp_path / 'demo', train=1, val=1)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_once_and_reports_it(tmp_path, capsys):
    words = [str(tmp_path / 'demo'), '--train', '8', '--val', '8']
    words += ['--size', '24', '40']
    main(words)
    assert capsys.readouterr().out.endswith('written.\n')
    main(words)
    assert capsys.readouterr().out.endswith('up to date.\n')
    image = cv2.imread(str(next(tmp_path.glob('demo/val/*/*.jpg'))))
    assert image.shape == (24, 40, 3)
    with pytest.raises(SystemExit, match='1'):
        main([str(tmp_path / 'demo')])
    assert 'pass --overwrite' in capsys.readouterr().err


# --- stock dataset classes -------------------------------------------------


def test_mmpretrain_reads_the_folders(root):
    from mmpretrain.datasets import CustomDataset

    data = CustomDataset(data_root=str(root), data_prefix='train')
    assert len(data) == TRAIN
    assert sorted(CLASSES) == list(data.CLASSES)
    for item in map(data.get_data_info, range(TRAIN)):
        name = Path(item['img_path']).parent.name
        assert data.CLASSES[item['gt_label']] == name


def test_mmdet_reads_the_coco_annotations(root):
    from mmdet.datasets import CocoDataset

    data = CocoDataset(
        data_root=str(root),
        data_prefix={'img': ''},
        ann_file='annotations/instances_train.json',
        metainfo={'classes': CLASSES},
    )
    assert len(data) == TRAIN
    for index in range(TRAIN):
        info = data.get_data_info(index)
        assert cv2.imread(info['img_path']).shape[:2] == SIZE
        items = annotated(scene_of(0, index))
        labels = [i['bbox_label'] for i in info['instances']]
        assert labels == [item.thing for item in items]


def test_mmdet_reads_the_lvis_annotations(root):
    pytest.importorskip('lvis', reason='the lvis package is not installed')
    from mmdet.datasets import LVISV1Dataset

    data = LVISV1Dataset(
        data_root=str(root),
        data_prefix={'img': ''},
        ann_file='annotations/lvis_v1_train.json',
        metainfo={'classes': LVIS_CLASSES},
    )
    assert len(data) == TRAIN
    for index in range(TRAIN):
        info = data.get_data_info(index)
        assert cv2.imread(info['img_path']).shape[:2] == SIZE
        items = annotated(scene_of(0, index))
        assert [i['bbox_label'] for i in info['instances']] == [
            item.shape * len(TEXTURES) + item.texture for item in items
        ]


def test_mmseg_reads_the_label_maps(root):
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    data = BaseSegDataset(
        data_root=str(root),
        data_prefix={
            'img_path': 'train',
            'seg_map_path': 'label_maps/train',
        },
        metainfo={'classes': SEGMENTATION_CLASSES},
        reduce_zero_label=True,
        pipeline=[LoadAnnotations()],
    )
    assert len(data) == TRAIN
    for item in data:
        index = int(Path(item['img_path']).stem)
        expected = label_map(scene_of(0, index)).astype(int) - 1
        expected[expected < 0] = 255
        np.testing.assert_array_equal(item['gt_seg_map'], expected)
