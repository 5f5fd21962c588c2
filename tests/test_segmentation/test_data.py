"""Pairs of image and label map are read as by MMSegmentation, or refused."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from simim_plugin.pictures import turn
from simim_plugin.segmentation import (
    AsLoadedVisualizationHook,
    CheckedADE20KDataset,
    LoadLabelMap,
)
from simim_plugin.segmentation.data import LabelMapError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'segmentation'
CLASSES = ('cat', 'dog', 'sky')


def read(path, **results):
    results = {
        'seg_map_path': str(path),
        'img_path': 'a.jpg',
        'reduce_zero_label': True,
        'seg_fields': [],
        'label_map': None,
    } | results
    loaded = LoadLabelMap()(results)
    assert loaded['seg_fields'] == ['gt_seg_map']
    assert loaded['gt_seg_map'].dtype == np.uint8
    return loaded['gt_seg_map']


def save(path, values, mode=None):
    Image.fromarray(np.asarray(values), mode).save(path)
    return path


def pair(root, stem, size=(9, 7), value=1):
    """Write an image and its label map of (width, height)."""
    for folder in ('images', 'maps'):
        (root / folder).mkdir(exist_ok=True)
    Image.new('RGB', size).save(root / 'images' / f'{stem}.jpg')
    Image.new('L', size, value).save(root / 'maps' / f'{stem}.png')


def dataset(root, **options):
    options = {
        'type': 'CheckedSegDataset',
        'data_root': str(root),
        'data_prefix': dict(img_path='images', seg_map_path='maps'),
        'reduce_zero_label': True,
        'metainfo': dict(classes=CLASSES),
        'pipeline': [
            dict(type='LoadImageFromFile'),
            dict(type='LoadLabelMap'),
        ],
    } | options
    init_default_scope('mmseg')
    return DATASETS.build(options)


@given(
    values=st.lists(st.sampled_from([*range(151), 255]), min_size=2),
    reduce=st.booleans(),
    names=st.permutations(ADE20KDataset.METAINFO['classes'][:9]),
    kept=st.integers(0, 9),
)
def test_reads_as_the_stock_transform(
    tmp_path_factory, values, reduce, names, kept
):
    path = tmp_path_factory.getbasetemp() / 'map.png'
    if not reduce:
        values = [255 if value == 150 else value for value in values]
    save(path, np.array([values], np.uint8))
    label_map = ADE20KDataset.get_label_map(names[:kept]) if kept else None
    results = dict(
        seg_map_path=str(path), reduce_zero_label=reduce, label_map=label_map
    )
    stock = LoadAnnotations()(dict(results, seg_fields=[]))['gt_seg_map']
    got = read(path, **results, num_classes=150, ori_shape=(1, len(values)))
    assert np.array_equal(got, np.atleast_2d(stock))


def test_palette_images_are_read_by_value(tmp_path):
    image = Image.fromarray(np.array([[0, 3], [2, 255]], np.uint8), 'P')
    image.putpalette([200, 0, 7] * 256)
    image.save(tmp_path / 'map.png')
    got = read(tmp_path / 'map.png', num_classes=3)
    assert got.tolist() == [[255, 2], [1, 255]]


def test_sixteen_bits_are_not_truncated(tmp_path):
    path = tmp_path / 'map.png'
    save(path, np.array([[1, 3]], np.uint16))
    assert read(path, num_classes=3).tolist() == [[0, 2]]
    save(path, np.array([[1, 257]], np.uint16))
    with pytest.raises(LabelMapError, match='the value 257, beyond the 3'):
        read(path, num_classes=3)


@pytest.mark.parametrize(
    ('reduce', 'highest'), [(True, 3), (False, 2)], ids=str
)
def test_value_beyond_the_classes_is_named(tmp_path, reduce, highest):
    path = tmp_path / 'map.png'
    given = dict(num_classes=3, reduce_zero_label=reduce)
    read(save(path, np.full((2, 2), highest, np.uint8)), **given)
    save(path, np.array([[0, highest + 1, 255]], np.uint8))
    with pytest.raises(LabelMapError) as caught:
        read(path, **given)
    assert f'{path} holds the value {highest + 1}, beyond' in str(caught.value)
    assert f'0 to {highest}, and 255' in str(caught.value)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA', 'F'])
def test_colours_are_refused(tmp_path, mode):
    path = tmp_path / ('map.tiff' if mode == 'F' else 'map.png')
    Image.new(mode, (3, 3)).save(path)
    words = 'holds fractions' if mode == 'F' else r'holds colours .* palette'
    with pytest.raises(LabelMapError, match=words):
        read(path, num_classes=3)


@pytest.mark.parametrize('content', [b'', b'no image', None])
def test_unreadable_map_is_named(tmp_path, content):
    path = tmp_path / 'map.png'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelMapError, match=f'Cannot read .*{path}'):
        read(path)


def test_map_of_another_size_is_named(tmp_path):
    pair(tmp_path, 'a', (9, 7))
    Image.new('L', (7, 9), 1).save(tmp_path / 'maps/a.png')
    with pytest.raises(LabelMapError, match=r'maps/a\.png has 7 x 9 .* 9 x 7'):
        dataset(tmp_path)[0]


def test_size_is_compared_before_the_image_is_resized(tmp_path):
    pair(tmp_path, 'a', (9, 7))
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(36, 28)),
        dict(type='LoadLabelMap'),
    ]
    loaded = dataset(tmp_path, pipeline=steps)[0]
    assert loaded['img'].shape == (28, 36, 3)
    assert loaded['gt_seg_map'].shape == (7, 9)


def test_data_set_passes_its_class_count(tmp_path):
    pair(tmp_path, 'a', value=4)
    with pytest.raises(LabelMapError, match='beyond the 3 classes'):
        dataset(tmp_path)[0]
    # The limit is the classes in the file, not the kept ones.
    kept = dict(classes=('wall', 'sky'))
    options = dict(type='CheckedADE20KDataset', metainfo=kept)
    pair(tmp_path, 'a', value=3)
    loaded = dataset(tmp_path, **options)[0]
    assert (loaded['gt_seg_map'] == 1).all()


def test_missing_files_of_pairs_are_counted_and_named(tmp_path):
    for i in range(8):
        pair(tmp_path, f'{i}')
    assert len(dataset(tmp_path)) == 8
    for i in (2, 4, 5):
        (tmp_path / f'maps/{i}.png').unlink()
    (tmp_path / 'images/3.jpg').unlink()
    with pytest.raises(LabelMapError) as caught:
        dataset(tmp_path)
    message = str(caught.value)
    assert 'Of 8 pairs of image and label map 4 lack one' in message
    assert f'{tmp_path}/maps/2.png, {tmp_path}/images/3.jpg, ' in message
    assert f'{tmp_path}/maps/4.png, ...;' in message
    # A list of whole pairs is accepted.
    (tmp_path / 'list.txt').write_text('0\n1\n7\n')
    assert len(dataset(tmp_path, ann_file='list.txt')) == 3
    (tmp_path / 'list.txt').write_text('0\n3\n')
    with pytest.raises(LabelMapError, match=r'Of 2 pairs .* 1 lack'):
        dataset(tmp_path, ann_file='list.txt')


NAMES = ['sørøya ß 海', 'two  blanks', 'of.2020.v1', '../images/above']


def test_names_in_a_list(tmp_path):
    """Non-ASCII, blanks, dots and parent folders, with and without suffix."""
    for k, name in enumerate(NAMES):
        pair(tmp_path, Path(name).name, size=(9 + k, 7))
    (tmp_path / 'maps/above.png').rename(tmp_path / 'images/above.png')
    for end in ('', '.jpg'):
        lines = [f'{name}{end}' for name in NAMES]
        (tmp_path / 'list.txt').write_text(
            '\n'.join([*lines, '', '']), encoding='utf-8'
        )
        found = dataset(tmp_path, ann_file='list.txt')
        assert [s['img'].shape[1] for s in found] == [9, 10, 11, 12]


def test_images_of_other_suffixes_in_a_list(tmp_path):
    for name in ('a', 'b', 'c'):
        pair(tmp_path, name)
    (tmp_path / 'images/b.jpg').rename(tmp_path / 'images/b.jpeg')
    (tmp_path / 'list.txt').write_text('a\nb.jpeg\nc\n')
    found = dataset(tmp_path, ann_file='list.txt')
    names = [Path(item['img_path']).name for item in found]
    assert names == ['a.jpg', 'b.jpeg', 'c.jpg']


def test_suffixes_of_several_parts(tmp_path):
    """As Cityscapes has them."""
    for name in ('a', 'b'):
        pair(tmp_path, name)
        image = tmp_path / f'images/{name}.jpg'
        image.rename(tmp_path / f'images/{name}_left.jpg')
        labels = tmp_path / f'maps/{name}.png'
        labels.rename(tmp_path / f'maps/{name}_truth.png')
    found = dataset(
        tmp_path, img_suffix='_left.jpg', seg_map_suffix='_truth.png'
    )
    assert len(found) == 2
    assert found[1]['seg_map_path'] == str(tmp_path / 'maps/b_truth.png')


@pytest.mark.parametrize('folders', [('images', 'maps'), ('maps',)], ids=str)
def test_folder_without_images_is_named(tmp_path, folders):
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(LabelMapError, match=f'no image .*{tmp_path}/images'):
        dataset(tmp_path)


def test_missing_folders_are_empty(tmp_path):
    for i in range(4):
        pair(tmp_path, f'{i}')
    (tmp_path / 'list.txt').write_text('0\n1\n3\n')
    shutil.rmtree(tmp_path / 'maps')
    named = ', '.join(f'{tmp_path}/maps/{i}.png' for i in range(3))
    with pytest.raises(LabelMapError) as caught:
        dataset(tmp_path)
    wanted = 'Of 4 pairs of image and label map 4 lack one: there is no '
    assert str(caught.value).startswith(f'{wanted}{named}, ...;')
    shutil.rmtree(tmp_path / 'images')
    with pytest.raises(LabelMapError, match=r'Of 3 pairs .* lack'):
        dataset(tmp_path, ann_file='list.txt')


def test_missing_list_is_named(tmp_path):
    pair(tmp_path, 'a')
    with pytest.raises(LabelMapError) as caught:
        dataset(tmp_path, ann_file='list.txt')
    assert str(caught.value) == (
        f'There is no list of pairs {tmp_path}/list.txt; set data_root and '
        'ann_file of the data set.'
    )


def test_images_without_labels_can_be_predicted(tmp_path):
    pair(tmp_path, 'a')
    found = dataset(tmp_path, data_prefix=dict(img_path='images'), pipeline=[])
    assert len(found) == 1


@pytest.mark.shared
def test_pairs_of_ade20k(shared):
    root = shared / 'data/ade_tiny/ADEChallengeData2016'
    for split, count in (('training', 22), ('validation', 11)):
        found = dataset(
            root,
            type='CheckedADE20KDataset',
            metainfo=None,
            data_prefix=dict(
                img_path=f'images/{split}', seg_map_path=f'annotations/{split}'
            ),
        )
        assert isinstance(found, CheckedADE20KDataset)
        assert len(found) == count
        for sample in found:
            assert set(np.unique(sample['gt_seg_map'])) <= {*range(150), 255}


@pytest.mark.parametrize('training', [True, False])
def test_smaller_than_the_crop_is_padded(tmp_path, training):
    """Padded pixels have no label and no prediction."""
    (file,) = CONFIGS.glob('*micro-p8_upernet*demo.py')
    config = Config.fromfile(file)
    pair(tmp_path, 'a', (40, 50))
    key = 'train' if training else 'test'
    pipeline = config[f'{key}_dataloader'].dataset.pipeline
    pipeline = [step for step in pipeline if 'Resize' not in step.type]
    for step in pipeline:
        step.pop('cat_max_ratio', None)
    sample = dataset(tmp_path, pipeline=pipeline)[0]
    model = MODELS.build(config.model)
    batch = {name: [value] for name, value in sample.items()}
    data = model.data_preprocessor(batch, training)
    assert data['inputs'].shape == (1, 3, 64, 64)
    assert not data['inputs'][..., 50:, :].any()
    assert not data['inputs'][..., 40:].any()
    if training:
        truth = data['data_samples'][0].gt_sem_seg.data
        assert (truth[:, :50, :40] == 0).all()
        assert (truth[:, 50:] == 255).all()
        assert (truth[..., 40:] == 255).all()
    else:
        with torch.no_grad():
            model.eval()
            (result,) = model.test_step(batch)
        assert result.pred_sem_seg.shape == (50, 40)


def turned_pair(root, stem, tag, upright=False, size=(24, 16)):
    """Write an image with an EXIF tag, bright where its map has a 2."""
    for folder in ('images', 'maps'):
        (root / folder).mkdir(exist_ok=True)
    labels = np.ones(size[::-1], np.uint8)
    labels[:5, :9] = 2
    exif = Image.Exif()
    exif[0x0112] = tag
    bright = Image.fromarray(labels * 120 - 60)
    bright.save(root / 'images' / f'{stem}.jpg', exif=exif, quality=95)
    save(root / 'maps' / f'{stem}.png', turn(labels, tag if upright else 1))


def on_object(item) -> bool:
    return bool(
        ((item['img'][..., 0] > 128) == (item['gt_seg_map'] == 1)).all()
    )


@pytest.mark.parametrize('tag', range(1, 9))
def test_label_maps_of_the_stored_image(tmp_path, tag):
    turned_pair(tmp_path, 'a', tag)
    assert on_object(dataset(tmp_path)[0])


@pytest.mark.parametrize('tag', range(5, 9))
def test_label_maps_of_the_upright_image(tmp_path, tag):
    turned_pair(tmp_path, 'a', tag, upright=True)
    turned_pair(tmp_path, 'b', 3, upright=True)  # follows the set
    found = dataset(tmp_path)
    assert found[0]['img'].shape == (24, 16, 3)
    assert on_object(found[0])
    assert on_object(found[1])
    turned_pair(tmp_path, 'a', 4, upright=True)
    assert on_object(dataset(tmp_path, upright=True)[1])


def test_label_maps_of_other_sizes_are_counted(tmp_path):
    for k in range(5):
        pair(tmp_path, f'{k}', (9, 7))
    for k in range(4):
        Image.new('L', (7, 9), 1).save(tmp_path / f'maps/{k}.png')
    with pytest.raises(LabelMapError) as caught:
        dataset(tmp_path)
    message = str(caught.value)
    assert message.startswith('Of 5 images 4 have another size')
    for part in ('maps/0.png', 'maps/2.png', '7 x 9 pixels', '; ...;'):
        assert part in message


@pytest.mark.parametrize('tag', [3, 6])
def test_drawings_are_of_the_loaded_image(tmp_path, tag):
    turned_pair(tmp_path, 'a', tag)
    item = dataset(tmp_path)[0]
    sample = SegDataSample(
        metainfo=dict(
            img_path=item['img_path'],
            ori_shape=item['ori_shape'],
            upright=item['upright'],
        )
    )
    drawn = []
    Visualizer.get_instance('drawings')
    hook = AsLoadedVisualizationHook(draw=True, interval=1)
    hook._visualizer = SimpleNamespace(
        add_datasample=lambda name, image, **_: drawn.append((name, image))
    )
    hook.after_test_iter(None, 0, {}, [sample])
    hook.after_val_iter(SimpleNamespace(iter=0), 0, {}, [sample])
    assert [name for name, _ in drawn] == ['test_a.jpg', 'val_a.jpg']
    for _, image in drawn:
        assert np.array_equal(image, item['img'][..., ::-1])
