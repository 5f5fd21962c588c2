"""Labelled folders, with and without a list; the crop of linear probing."""

import gzip
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmpretrain.registry import DATASETS
from PIL import Image

from simim_plugin.datasets.labelled_folder import (
    LabelledFolder,
    check_same_classes,
    read_lines,
)
from simim_plugin.datasets.robustness import read_wnids
from simim_plugin.datasets.single_draw_crop import SingleDrawCrop
from simim_plugin.errors import SimimError
from simim_plugin.evaluation.classes import ClassCountHook

NAMES = ['n01_1.JPEG', 'n01_2.JPEG', 'n02_7.JPEG', 'n03_10026.JPEG']


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        folder = tmp_path / 'train' / name.split('_')[0]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(folder / name)
    return tmp_path / 'train'


def found(dataset):
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [
        (info['img_path'].rsplit('/', 1)[1], info['gt_label'])
        for info in infos
    ]


def test_whole_folder(root):
    dataset = LabelledFolder(str(root))
    assert found(dataset) == list(zip(NAMES, [0, 0, 1, 2], strict=True))
    assert dataset.metainfo['classes'] == ('n01', 'n02', 'n03')


@pytest.mark.parametrize('listed', [False, True])
def test_hidden_folders_are_no_classes(root, tmp_path, listed):
    """Notebooks, for example, leave hidden folders behind."""
    for folder in (root / '.ipynb_checkpoints', root / 'n01' / '.thumbnails'):
        folder.mkdir()
        Image.new('RGB', (8, 8)).save(folder / 'n01_1.JPEG')
    options = {}
    if listed:
        options['list_file'] = str(tmp_path / 'list.txt')
        (tmp_path / 'list.txt').write_text('\n'.join(NAMES))
    dataset = LabelledFolder(str(root), **options)
    assert found(dataset) == list(zip(NAMES, [0, 0, 1, 2], strict=True))
    assert dataset.metainfo['classes'] == ('n01', 'n02', 'n03')


def test_a_list_that_begins_with_a_byte_order_mark(root, tmp_path):
    file = tmp_path / 'list.txt'
    file.write_text('\n'.join(NAMES), encoding='utf-8-sig')
    dataset = LabelledFolder(str(root), list_file=str(file))
    assert found(dataset) == list(zip(NAMES, [0, 0, 1, 2], strict=True))


def test_names_of_classes_may_be_given(root):
    names = ('tench', 'goldfish', 'shark')
    dataset = LabelledFolder(str(root), metainfo=dict(classes=names))
    assert dataset.metainfo['classes'] == names


@pytest.mark.shared
def test_the_papers_list_of_1_percent(shared, tmp_path):
    """The list has 12,811 different images of all 1000 classes."""
    file = shared / 'data' / 'few_shot' / 'imagenet_1percent.txt.gz'
    lines = [line for _, line in read_lines(str(file))]
    assert len(set(lines)) == len(lines) == 12_811
    wnids = read_wnids('imagenet_1k')
    assert {line.partition('_')[0] for line in lines} == set(wnids)
    for wnid in wnids[::-1]:
        (tmp_path / wnid).mkdir()
    with pytest.raises(SimimError, match=r'12811 of the 12811 images listed'):
        LabelledFolder(str(tmp_path), list_file=str(file))
    for line in lines:
        (tmp_path / line.partition('_')[0] / line).touch()
    images = found(LabelledFolder(str(tmp_path), list_file=str(file)))
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    assert images == [(line, labels[line.partition('_')[0]]) for line in lines]


@pytest.mark.parametrize('ending', ['.txt', '.txt.gz'])
@pytest.mark.parametrize('line', ['{name}', '{folder}/{name}'])
def test_listed_images_in_the_order_of_the_list(root, tmp_path, ending, line):
    file = tmp_path / f'list{ending}'
    lines = [
        line.format(name=name, folder=name.split('_')[0])
        for name in (NAMES[3], NAMES[1])
    ]
    text = '\n'.join([*lines, '', ''])
    opened = gzip.open if ending.endswith('gz') else open
    with opened(file, 'wt') as stream:
        stream.write(text)
    dataset = DATASETS.build(
        dict(type='LabelledFolder', data_root=str(root), list_file=str(file))
    )
    # Labels count all folders, not only the listed ones.
    assert found(dataset) == [(NAMES[3], 2), (NAMES[1], 0)]
    assert dataset.metainfo['classes'] == ('n01', 'n02', 'n03')


def test_a_list_and_a_file_of_annotations(root, tmp_path):
    for name in ('list.txt', 'labels.txt'):
        (tmp_path / name).write_text('')
    with pytest.raises(SimimError, match='an ann_file and a list_file; set'):
        LabelledFolder(
            str(root),
            list_file=str(tmp_path / 'list.txt'),
            ann_file=str(tmp_path / 'labels.txt'),
        )


LABELLED = """n03/n03_1.png 2

n01/b b.png\t0
n01/b b.png 0
"""


@pytest.mark.parametrize('classes', [None, ('a', 'b', 'c')])
def test_a_list_of_labels(classes, tmp_path):
    for name in ('n03/n03_1.png', 'n01/b b.png'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b'')
    file = tmp_path / 'list.txt'
    build = partial(
        LabelledFolder,
        str(tmp_path),
        ann_file=str(file),
        metainfo=dict(classes=classes) if classes else None,
    )
    file.write_text(LABELLED, encoding='utf-8-sig')
    labels = [build().get_data_info(k)['gt_label'] for k in range(3)]
    assert labels == [2, 0, 0]
    assert build().least_classes == 3
    beyond = [('n01/b b.png 3', '3.* no whole number from 0 to 2')]
    beyond = beyond if classes else []
    for line, words in (
        ('n01/b.png 0', r"no image 'n01/b\.png' .* line 5 of"),
        ('n01/b b.png', r"The label 'b\.png' in line 5"),
        ('n01/b b.png -1', "The label '-1' in line 5"),
        ('n01/b b.png 1', "'n01/b b.png' in line 5 .* has the label 0"),
        *beyond,
    ):
        file.write_text(LABELLED + line)
        with pytest.raises(SimimError, match=words):
            build()


def test_labels_beyond_the_classes_of_a_head(tmp_path):
    """A list whose labels count from 1 would test every class wrongly."""
    (tmp_path / 'a.png').write_bytes(b'')
    (tmp_path / 'list.txt').write_text('a.png 2')
    listed = LabelledFolder(
        str(tmp_path), ann_file=str(tmp_path / 'list.txt'), test_mode=True
    )
    model = torch.nn.Module()
    model.head = torch.nn.Linear(3, 2)
    runner = SimpleNamespace(
        model=model, test_dataloader=SimpleNamespace(dataset=listed)
    )
    hook = ClassCountHook()
    for count in (3, 2):
        model.head.num_classes = count
        if count == 3:
            hook.before_test(runner)
            continue
        with pytest.raises(SimimError, match=r'up to 2, .* has 2 classes'):
            hook.before_test(runner)


@pytest.mark.parametrize('wrapper', [RepeatDataset, ConcatDataset])
def test_the_classes_of_a_wrapped_set_are_counted(root, tmp_path, wrapper):
    (tmp_path / 'a.png').write_bytes(b'')
    (tmp_path / 'list.txt').write_text('a.png 2')
    listed = LabelledFolder(
        str(tmp_path), ann_file=str(tmp_path / 'list.txt'), test_mode=True
    )
    folders = LabelledFolder(str(root))
    model = torch.nn.Module()
    model.head = torch.nn.Linear(3, 2)
    model.head.num_classes = 2
    for one, words in (
        (folders, f'training set of {root} has 3; set num_classes'),
        (listed, r'list\.txt has labels up to 2, .* has 2 classes'),
    ):
        wrapped = (
            wrapper([one, one])
            if wrapper is ConcatDataset
            else wrapper(one, times=2)
        )
        loader = SimpleNamespace(dataset=wrapped)
        runner = SimpleNamespace(model=model, train_dataloader=loader)
        with pytest.raises(SimimError, match=words):
            ClassCountHook().before_train(runner)


def test_names_in_another_order_than_the_folders(root):
    names = ('n02', 'n01', 'n03')
    with pytest.raises(SimimError, match=r'another order \(n02, n01, n03\)'):
        LabelledFolder(str(root), metainfo=dict(classes=names))


def test_missing_images_of_a_list(root, tmp_path):
    file = tmp_path / 'list.txt'
    absent = ['n09_1.JPEG', 'n01_9.JPEG', 'odd.JPEG', 'n02_8.JPEG']
    file.write_text('\n'.join([NAMES[0], *absent]))
    with pytest.raises(SimimError) as caught:
        LabelledFolder(str(root), list_file=str(file))
    message = str(caught.value)
    assert message.startswith('4 of the 5 images')
    assert '(n09_1.JPEG, n01_9.JPEG, odd.JPEG, ...)' in message
    assert '\n' not in message


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (None, 'Cannot read the list'),
        (b'', 'is empty'),
        (b'\x1f\x8b\x08\x00', 'Cannot read the list'),
        (b'\xff\xfe\xfa', 'Cannot read the list'),
    ],
)
@pytest.mark.parametrize('ending', ['.txt', '.txt.gz'])
def test_unreadable_lists(root, tmp_path, content, words, ending):
    file = tmp_path / f'list{ending}'
    if content is not None:
        packed = ending.endswith('gz') and not content.startswith(b'\x1f')
        file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(SimimError, match=words):
        LabelledFolder(str(root), list_file=str(file))


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(SimimError, match=r'no image folder at .*nowhere'):
        LabelledFolder(str(tmp_path / 'nowhere'))
    (tmp_path / 'cat').mkdir()
    with pytest.raises(SimimError, match='no image in the sub-folders'):
        LabelledFolder(str(tmp_path))


sizes = st.integers(1, 400)


@given(rows=sizes, cols=sizes, seed=st.integers(0, 99))
def test_crop_is_one_clamped_draw(rows, cols, seed):
    """The draws are, in order: area, log aspect, top, left."""
    image = np.zeros((rows, cols, 3), np.uint8)
    np.random.seed(seed)
    top, left, height, width = SingleDrawCrop(scale=8).rand_crop_params(image)
    np.random.seed(seed)
    area = rows * cols * np.random.uniform(0.08, 1.0)
    aspect = np.exp(np.random.uniform(np.log(3 / 4), np.log(4 / 3)))
    assert height == min(rows, max(1, round((area / aspect) ** 0.5)))
    assert width == min(cols, max(1, round((area * aspect) ** 0.5)))
    assert 0 <= top <= rows - height
    assert 0 <= left <= cols - width


def test_crop_of_a_wide_image_is_clamped():
    """Most boxes are too high for a strip: they keep their drawn width."""
    image = np.zeros((50, 500, 3), np.uint8)
    boxes = [
        SingleDrawCrop(scale=8).rand_crop_params(image) for _ in range(99)
    ]
    cut = [width / height for _, _, height, width in boxes if height == 50]
    assert len(cut) > 50
    assert len(set(cut)) > 40
    assert max(cut) > 4 / 3 + 0.1


def test_crop_resizes_like_pillow():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120, 3), np.uint8)
    crop = SingleDrawCrop(scale=32, interpolation='bicubic', backend='pillow')
    np.random.seed(3)
    top, left, height, width = crop.rand_crop_params(image)
    np.random.seed(3)
    got = crop.transform(dict(img=image))['img']
    box = image[top : top + height, left : left + width]
    expected = Image.fromarray(box).resize((32, 32), Image.BICUBIC)
    assert np.array_equal(got, np.asarray(expected))


def test_given_names_are_those_of_the_folders(root, tmp_path):
    """A folder that is missing would shift the labels of the others."""
    names = ('tench', 'goldfish', 'shark')
    whole = LabelledFolder(str(root), metainfo=dict(classes=names))
    shutil.copytree(root, tmp_path / 'val')
    (tmp_path / 'val' / 'n02').rename(tmp_path / 'val' / 'n04')
    other = LabelledFolder(str(tmp_path / 'val'), metainfo=dict(classes=names))
    with pytest.raises(SimimError, match='n02, n04'):
        check_same_classes(whole, 'test', other)
    shutil.rmtree(tmp_path / 'val' / 'n04')
    with pytest.raises(SimimError, match=r'2 classes and metainfo.* names 3'):
        LabelledFolder(str(tmp_path / 'val'), metainfo=dict(classes=names))
