"""Data of one's own is read as it is, or refused in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simim_plugin.demo.annotations import SEGMENTATION_CLASSES
from simim_plugin.demo.data import make_demo_data
from simim_plugin.errors import SimimError
from simim_plugin.recipes import survey as surveying
from simim_plugin.recipes.boxes import read_boxes, write_part
from simim_plugin.recipes.class_folders import read_class_folders
from simim_plugin.recipes.label_maps import read_label_maps
from simim_plugin.recipes.pretraining import read_unlabelled
from simim_plugin.recipes.segmentation import label_settings
from simim_plugin.recipes.splitting import balance, divide
from simim_plugin.recipes.survey import survey

from ..test_pictures.drawing import png_of_16_bits
from .data import CLASSES, class_folders, coco, label_maps, picture


@given(
    st.lists(st.sampled_from('abcd'), max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31),
)
def test_a_division_is_a_partition(groups, share, seed):
    train, val = divide(groups, share, seed)
    assert sorted(train + val) == [*range(len(groups))]
    assert (train, val) == divide(groups, share, seed)
    for group in {*groups}:
        counts = [
            sum(groups[k] == group for k in part) for part in (train, val)
        ]
        assert counts[0] > 0
        assert (counts[1] > 0) == (sum(counts) > 1)
        wanted = min(max(share * sum(counts), 1), sum(counts) - 1)
        assert abs(counts[1] - wanted) <= 0.5


def test_a_survey_tells_what_pictures_are(tmp_path):
    picture(tmp_path / 'a.png', (60, 40))
    Image.new('L', (100, 40)).save(tmp_path / 'grey.png')
    Image.fromarray(np.zeros((40, 80), np.uint16)).save(tmp_path / 'deep.png')
    (tmp_path / 'no.jpg').write_bytes(b'nothing')
    names = ('a.png', 'grey.png', 'deep.png', 'no.jpg')
    found = survey([str(tmp_path / name) for name in names])
    assert found.size == (40, 80)
    assert found.broken == [str(tmp_path / 'no.jpg')]
    assert [p.channels for p in found.seen] == [3, 1, 1]
    assert [p.deep for p in found.seen] == [False, False, True]
    assert (found.deep, found.grey, found.channels) == (False, False, 1)
    with pytest.raises(SimimError, match='None of the 1 pictures'):
        survey([str(tmp_path / 'no.jpg')])


def test_class_folders_in_one_part_are_divided(tmp_path):
    data = read_class_folders(str(class_folders(tmp_path)), None, 0.25, 1)
    assert data.classes == sorted(CLASSES)
    assert data.counts == dict(zip(CLASSES, (7, 3, 5), strict=True))
    assert data.tested == dict(zip(CLASSES, (2, 1, 2), strict=True))
    lines = data.lists['train'] + data.lists['val']
    assert len({*lines}) == 20
    assert 'a rare one/bild 0.png' in lines
    (left_out,) = data.pictures.left_out
    assert left_out.endswith('/broken.jpg')
    assert not data.pictures.broken
    assert '3 classes, from 3 of a rare one to 7 of Äpfel' in str(data)


def test_class_folders_in_two_parts(tmp_path):
    class_folders(tmp_path / 'training')
    class_folders(tmp_path / 'valid', (2, 1, 1), broken=False)
    data = read_class_folders(str(tmp_path), None, 0.25, 1)
    assert data.lists == {}
    assert data.tested == dict(zip(CLASSES, (2, 1, 1), strict=True))
    (tmp_path / 'valid' / 'nut' / 'bad.jpg').write_bytes(b'no')
    with pytest.raises(SimimError, match=r'test pictures cannot.*bad\.jpg'):
        read_class_folders(str(tmp_path), None, 0.25, 1)
    (tmp_path / 'valid' / 'nut').rename(tmp_path / 'valid' / 'nuts')
    with pytest.raises(SimimError, match='other classes'):
        read_class_folders(str(tmp_path), None, 0.25, 1)


@pytest.mark.parametrize(
    ('train', 'val'), [('training_set', 'test_set'), ('Train', 'dev')]
)
def test_parts_of_other_names(train, val, tmp_path):
    class_folders(tmp_path / train, broken=False)
    class_folders(tmp_path / val, (2, 1, 1), broken=False)
    data = read_class_folders(str(tmp_path), None, 0.25, 1)
    assert data.classes == sorted(CLASSES)
    assert sum(data.tested.values()) == 4


@pytest.mark.parametrize('part', ['train', 'test'])
def test_a_part_among_classes_is_refused(part, tmp_path):
    """The known layout of Kaggle: train/CLASS, and pictures in test1."""
    class_folders(tmp_path / part, broken=False)
    for k in range(2):
        picture(tmp_path / 'test1' / f'{k}.png')
    with pytest.raises(SimimError, match=f'/{part} holds the class folders'):
        read_class_folders(str(tmp_path), None, 0.25, 1)
    picture(tmp_path / part / 'a train.png')  # a class of that name
    data = read_class_folders(str(tmp_path), None, 0.25, 1)
    assert data.classes == sorted([part, 'test1'])


def test_unfit_class_folders(tmp_path):
    picture(tmp_path / 'one' / 'a.png')
    with pytest.raises(SimimError, match='1 sub-folders with pictures'):
        read_class_folders(str(tmp_path), None, 0.25, 1)
    picture(tmp_path / 'two' / 'a.png')
    with pytest.raises(SimimError, match=r'class one .* has one picture'):
        read_class_folders(str(tmp_path), None, 0.25, 1)
    with pytest.raises(SimimError, match=r'--val-share 1\.5'):
        read_class_folders(str(tmp_path), None, 1.5, 1)
    with pytest.raises(FileNotFoundError, match='no picture'):
        (tmp_path / 'empty').mkdir()
        read_unlabelled(str(tmp_path / 'empty'))


def test_the_balance_of_classes():
    assert balance(dict(a=2, b=2)) == '2 of each'
    assert balance(dict(a=3, b=2)) == 'from 2 of b to 3 of a'


def test_one_annotation_file_is_divided(tmp_path):
    file = coco(tmp_path)
    for data in (file, tmp_path):
        found = read_boxes(str(data), 0.3, 0, tmp_path / 'my')
        assert found.masks
        assert sum(found.images) == 10
        assert found.unused == ['never']
        assert {*found.counts} <= {*CLASSES}
        assert found.train.file == str(tmp_path / 'my_train.json')
        assert found.train.images == str(tmp_path / 'images')
        parts = [p.content['images'] for p in (found.train, found.val)]
        ids = [image['id'] for part in parts for image in part]
        assert sorted(ids) == [100 + k for k in range(10)]
        for part in (found.train, found.val):
            there = {image['id'] for image in part.content['images']}
            owners = {a['image_id'] for a in part.content['annotations']}
            assert owners == there


def test_two_annotation_files(tmp_path):
    coco(tmp_path, name='instances_train2020.json')
    coco(tmp_path, 3, name='instances_val2020.json', first=10)
    found = read_boxes(str(tmp_path), 0.3, 0, tmp_path / 'my')
    assert found.images == (10, 3)
    assert found.train.content is found.val.content is None
    # The order of the file's ids: 3, 17 and 90.
    assert found.classes == [CLASSES[2], CLASSES[0], CLASSES[1]]
    assert found.counts == dict(zip(found.classes, (9, 10, 1), strict=True))


def test_a_division_is_made_anew(tmp_path):
    coco(tmp_path, name='instances.json')
    found = read_boxes(str(tmp_path), 0.3, 0, tmp_path / 'my')
    for part in (found.train, found.val):
        Path(part.file).write_text(write_part(part))
    again = read_boxes(str(tmp_path), 0.3, 0, tmp_path / 'my')
    assert again.read == [str(tmp_path / 'instances.json')]
    assert again.counts == found.counts
    with pytest.raises(SimimError, match='has 3 annotation files'):
        read_boxes(str(tmp_path), 0.3, 0, tmp_path / 'other')


@pytest.mark.parametrize('other', ['old_val.json', 'more.json'])
def test_annotation_files_that_nothing_reads_are_refused(other, tmp_path):
    coco(tmp_path, name='train.json')
    coco(tmp_path, 3, name='val.json', first=10)
    coco(tmp_path, 3, name='test.json', first=13)  # val counts before test
    assert read_boxes(str(tmp_path), 0.3, 0, tmp_path / 'my').images == (10, 3)
    coco(tmp_path, 3, name=other, first=16)
    with pytest.raises(SimimError, match='has 4 annotation files'):
        read_boxes(str(tmp_path), 0.3, 0, tmp_path / 'my')


def test_test_files_without_objects_are_refused(tmp_path):
    file = coco(tmp_path)
    val = coco(tmp_path, 3, name='val.json', first=10)
    content = json.loads(val.read_text())
    objects = content.pop('annotations')
    elsewhere = [dict(one, image_id=1) for one in objects]
    for stored in ({}, dict(annotations=[]), dict(annotations=elsewhere)):
        val.write_text(json.dumps(content | stored))
        with pytest.raises(SimimError, match=r'val\.json has no object of'):
            read_boxes(str(file), 0.3, 0, tmp_path / 'my', val_data=str(val))


def test_an_image_of_two_entries_is_refused(tmp_path):
    file = coco(tmp_path)
    content = json.loads(file.read_text())
    content['images'][1]['file_name'] = './bild 0.png'
    file.write_text(json.dumps(content))
    with pytest.raises(SimimError, match=r'lists the image bild 0\.png more'):
        read_boxes(str(file), 0.3, 0, tmp_path / 'my')


def test_boxes_without_masks(tmp_path):
    file = coco(tmp_path, masks=False)
    assert not read_boxes(str(file), 0.3, 0, tmp_path / 'my').masks
    with pytest.raises(SimimError, match=r'have no mask.*--masks'):
        read_boxes(str(file), 0.3, 0, tmp_path / 'my', masks=True)


def test_unfit_annotations(tmp_path):
    with pytest.raises(SimimError, match='no annotation file or folder'):
        read_boxes(str(tmp_path / 'none'), 0.3, 0, tmp_path / 'my')
    with pytest.raises(SimimError, match='has 0 annotation files'):
        read_boxes(str(tmp_path), 0.3, 0, tmp_path / 'my')
    file = coco(tmp_path)
    (tmp_path / 'images' / 'bild 3.png').unlink()
    with pytest.raises(SimimError, match=r'not all near it.*bild 3\.png'):
        read_boxes(str(file), 0.3, 0, tmp_path / 'my')
    (tmp_path / 'images' / 'bild 3.png').write_bytes(b'broken')
    assert sum(read_boxes(str(file), 0.3, 0, tmp_path / 'my').images) == 9
    content = json.loads(file.read_text())
    content['annotations'] = []
    file.write_text(json.dumps(content))
    with pytest.raises(SimimError, match='no object'):
        read_boxes(str(file), 0.3, 0, tmp_path / 'my')
    content['images'] = []
    file.write_text(json.dumps(content))
    with pytest.raises(SimimError, match='lists no pictures'):
        read_boxes(str(file), 0.3, 0, tmp_path / 'my')


@pytest.mark.parametrize(
    ('values', 'settings'),
    [
        ((0, 1, 2), {}),
        ((0, 1, 255), {}),
        ((0, 255), dict(values=[0, 255], ignored=[])),
        ((1, 2, 255), dict(reduce_zero_label=True)),
        ((10, 20, 30), dict(values=[10, 20, 30], ignored=[255])),
    ],
)
def test_values_of_label_maps(tmp_path, values, settings):
    data = read_label_maps(str(label_maps(tmp_path, values=values)), 0.25, 0)
    assert label_settings(data) == settings
    assert (len(data.train.names), len(data.val.names)) == (6, 2)
    note = 'ignored values: 255 (a class if classes.txt lists it)'
    assert (note in str(data)) == (len(values) == 3 and values[2] == 255)


def test_smoothed_edges_of_label_maps(tmp_path):
    label_maps(tmp_path, values=(0, 255))
    for file in (tmp_path / 'masks').iterdir():
        mask = Image.open(file).resize((640, 640))
        mask.rotate(20, Image.Resampling.BICUBIC).save(file)
    with pytest.raises(SimimError, match=r'values, and 0 and 255.*smoothed'):
        read_label_maps(str(tmp_path), 0.25, 0)


def test_named_values_of_label_maps(tmp_path):
    label_maps(tmp_path, values=(0, 7, 9))
    (tmp_path / 'classes.txt').write_text('7 grün\n0 the rest\n')
    with pytest.raises(SimimError, match=r'value 9.*--ignore 9.*others'):
        read_label_maps(str(tmp_path), 0.25, 0)
    data = read_label_maps(str(tmp_path), 0.25, 0, ignored=(9,))
    assert data.values == {0: 'the rest', 7: 'grün'}
    settings = dict(values=[0, 7], ignored=[9, 255])
    assert label_settings(data) == settings
    data = read_label_maps(str(tmp_path), 0.25, 0, ignored='others')
    assert label_settings(data) == dict(values=[0, 7], ignored='others')
    (tmp_path / 'classes.txt').write_text('grün 7\n')
    with pytest.raises(SimimError, match=r'Cannot read the classes.*3 road'):
        read_label_maps(str(tmp_path), 0.25, 0)


@pytest.mark.parametrize(
    ('images', 'maps'),
    [
        ('images/{}', 'masks/{}'),
        ('{}/JPEGImages', '{}/SegmentationClass'),
        ('img/{}ing', 'annotations/{}ing'),
        ('{}', 'label_maps/{}'),
        ('{}', 'classes of pixels/{}'),
        ('photos/{}', 'drawn by hand/{}'),
        ('{}/photos', '{}/drawn by hand'),
    ],
)
def test_layouts_of_label_maps(tmp_path, images, maps):
    (tmp_path / 'annotations').mkdir(exist_ok=True)
    (tmp_path / 'annotations' / 'boxes.json').write_text('{}')
    test = 'test' if 'ing' in images else 'val'
    for part, count in (('train', 4), (test, 2)):
        label_maps(
            *(tmp_path, count, (0, 1)), images.format(part), maps.format(part)
        )
    data = read_label_maps(str(tmp_path), 0.25, 0)
    assert (len(data.train.names), len(data.val.names)) == (4, 2)
    assert data.shares == pytest.approx({0: 0.5, 1: 0.5})


@pytest.mark.parametrize(
    ('images', 'maps'),
    [
        ('photos', 'drawn by hand'),
        ('JPEGImages', 'SegmentationClass'),
        ('.', 'masks'),
        ('train', 'label_maps/train'),
        ('2024/field', '2025/field'),
    ],
)
def test_layouts_of_one_part(tmp_path, images, maps):
    label_maps(tmp_path, 5, (0, 1), f'{images}/deep', f'{maps}/deep')
    (tmp_path / 'notes').mkdir()
    data = read_label_maps(str(tmp_path), 0.25, 0)
    found = {
        Path(path).resolve(): Path(part.label_map(name)).resolve()
        for part in (data.train, data.val)
        for name, path in zip(part.names, part.pictures(), strict=True)
    }
    assert found == {
        (tmp_path / images / f'deep/bild {k}.jpg').resolve(): (
            tmp_path / maps / f'deep/bild {k}.png'
        )
        for k in range(5)
    }


def test_folders_that_may_be_either_are_refused(tmp_path):
    for folder in ('one', 'two', 'three'):
        path = tmp_path / folder / 'a.png'
        path.parent.mkdir()
        Image.new('L', (8, 8)).save(path)
    with pytest.raises(SimimError, match=r'three and one.*list of both'):
        read_label_maps(str(tmp_path), 0.25, 0)
    for folder in ('one', 'two'):
        Image.new('RGB', (8, 8)).save(tmp_path / folder / 'a.png')
    with pytest.raises(SimimError, match=r'one and three; two and three'):
        read_label_maps(str(tmp_path), 0.25, 0)
    Image.new('RGB', (8, 8)).save(tmp_path / 'three' / 'a.png')
    with pytest.raises(SimimError, match=r'no folder of pictures and'):
        read_label_maps(str(tmp_path), 0.25, 0)


def test_the_scenes_of_the_demo(tmp_path):
    """Label maps beside the parts, classes in the manifest, 0 unlabelled."""
    make_demo_data(tmp_path / 'demo', train=12, val=6)
    data = read_label_maps(str(tmp_path / 'demo'), 0.25, 0)
    assert (len(data.train.names), len(data.val.names)) == (12, 6)
    assert data.train.maps == str(tmp_path / 'demo/label_maps/train')
    assert data.values == dict(enumerate(SEGMENTATION_CLASSES, 1))
    assert data.ignored == [0]
    assert label_settings(data) == dict(reduce_zero_label=True)
    asked = read_label_maps(str(tmp_path / 'demo'), 0.25, 0, ignored='others')
    assert asked.ignored == 'others'


def test_unfit_label_maps(tmp_path):
    with pytest.raises(SimimError, match=r'no folders.*images/ and masks/'):
        read_label_maps(str(tmp_path), 0.25, 0)
    label_maps(tmp_path, values=(1, 1))
    with pytest.raises(SimimError, match=r'have 1 classes'):
        read_label_maps(str(tmp_path), 0.25, 0)
    (tmp_path / 'masks' / 'bild 2.png').unlink()
    with pytest.raises(SimimError, match=r'1 of 8 pictures.*bild 2\.png'):
        read_label_maps(str(tmp_path), 0.25, 0)


def test_broken_deep_pictures_are_found(tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (40, 50, 3))
    whole = png_of_16_bits(levels)
    (tmp_path / 'a.png').write_bytes(whole)
    (tmp_path / 'b.png').write_bytes(whole[: len(whole) // 2])
    found = survey([str(tmp_path / 'a.png'), str(tmp_path / 'b.png')])
    assert found.broken == [str(tmp_path / 'b.png')]
    assert found.deep and found.channels == 3


def test_sides_of_upright_and_wide_pictures(tmp_path):
    for k, size in enumerate(((100, 30), (30, 100), (60, 60))):
        picture(tmp_path / f'{k}.png', size)
    found = survey([str(tmp_path / f'{k}.png') for k in range(3)])
    assert found.sides == (30, 100)


def test_a_broken_file_leads_to_a_look_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(surveying, 'MOST', 4)
    files = [str(tmp_path / f'{k}.png') for k in range(12)]
    for file in files:
        picture(Path(file))
    for k in (0, 1, 7):
        Path(files[k]).write_bytes(b'nothing')
    some = survey(files)
    assert set(some.broken) < {files[0], files[1], files[7]}
    assert survey(files, every=True).broken == [files[k] for k in (0, 1, 7)]


def test_an_archive_beside_photographs_is_left(tmp_path):
    picture(tmp_path / 'a' / '1.png')
    (tmp_path / 'backup.tar.gz').write_bytes(b'nothing')
    assert read_unlabelled(str(tmp_path)).pictures.count == 1


def test_pictures_that_train_and_test_are_refused(tmp_path):
    root = class_folders(tmp_path / 'a', broken=False)
    with pytest.raises(SimimError, match='20 of 20 pictures to test on are'):
        read_class_folders(str(root), str(root), 0.2, 0)
    file = coco(tmp_path / 'b', count=4)
    again = tmp_path / 'b' / 'again.json'
    again.write_bytes(Path(file).read_bytes())
    with pytest.raises(SimimError, match='4 of 4 pictures to test on are'):
        read_boxes(str(file), 0.2, 0, tmp_path / 'x', val_data=str(again))


def test_links_to_pictures_that_train_are_refused(tmp_path):
    root = class_folders(tmp_path / 'a' / 'train', broken=False)
    (tmp_path / 'a' / 'val').symlink_to(root)
    with pytest.raises(SimimError, match='20 of 20 pictures to test on are'):
        read_class_folders(str(tmp_path / 'a'), None, 0.2, 0)
    label_maps(tmp_path / 'b')
    (tmp_path / 'c').symlink_to(tmp_path / 'b')
    with pytest.raises(SimimError, match='8 of 8 pictures to test on are'):
        places = str(tmp_path / 'b'), 0.25, 0
        read_label_maps(*places, val=str(tmp_path / 'c'))
    (root / 'nut' / 'link.png').symlink_to(root / 'nut' / 'bild 0.png')
    with pytest.raises(SimimError, match=r'link\.png and .* same picture'):
        read_class_folders(str(root), None, 0.2, 0)


@pytest.mark.parametrize('name', ['bild 1.webp', 'bild 1.bmp'])
def test_two_pictures_of_one_label_map_are_refused(name, tmp_path):
    label_maps(tmp_path)
    picture(tmp_path / 'images' / name)
    with pytest.raises(SimimError, match=r'have the same label map .*1\.png'):
        read_label_maps(str(tmp_path), 0.25, 0)


def test_zeros_of_maps_that_were_not_looked_at(tmp_path, monkeypatch):
    label_maps(tmp_path, values=(1, 2))
    data = read_label_maps(str(tmp_path), 0.25, 0)
    assert label_settings(data) == dict(reduce_zero_label=True)
    monkeypatch.setattr('simim_plugin.recipes.segmentation.LOOKED_AT', 4)
    assert label_settings(data) == dict(values=[1, 2], ignored=[255])


def test_an_ignored_value_that_no_map_has_is_kept(tmp_path):
    label_maps(tmp_path, values=(1, 2))
    data = read_label_maps(str(tmp_path), 0.25, 0, ignored=(0, 9))
    assert label_settings(data) == dict(values=[1, 2], ignored=[0, 9, 255])
