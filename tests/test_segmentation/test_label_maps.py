"""Label maps are looked at before a run starts."""

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, HOOKS, MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from simim_plugin import config_path
from simim_plugin.errors import SimimError
from simim_plugin.segmentation import label_maps
from simim_plugin.segmentation.label_maps import (
    LabelMapError,
    read_label_map,
)

from ..test_pictures.drawing import jpeg2000, pnm

UPERNET = 'siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py'
CLASSES = ('ground', 'disc')


def make(root: Path, values=(0, 1), mode='L', count=6, suffix='png') -> Path:
    """Write images of a bright disc, with values for ground and disc."""
    for folder in ('images', 'maps'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:64, :64]
    for k in range(count):
        disc = (y - 20 - k) ** 2 + (x - 30) ** 2 < 150
        pixels = np.where(disc[..., None], (250, 80, 40), (9, 9, 60))
        image = Image.fromarray(pixels.astype(np.uint8))
        image.save(root / f'images/{k}.png')
        ground, figure = values
        labels = Image.fromarray(np.where(disc, figure, ground).astype('u1'))
        labels.convert(mode).save(root / f'maps/{k}.{suffix}')
    return root


def build(root: Path, **changes):
    init_default_scope('mmseg')
    given = dict(
        type='CheckedSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='maps'),
        img_suffix='.png',
        metainfo=dict(classes=CLASSES),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadLabelMap')],
    )
    return DATASETS.build({**given, **changes})


def refused(root: Path, **changes) -> str:
    with pytest.raises(LabelMapError) as caught:
        build(root, **changes)
    message = str(caught.value)
    assert '\n' not in message
    return message


@pytest.fixture
def warned(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(
        label_maps, 'print_log', lambda line, *args: lines.append(line)
    )
    return lines


@pytest.mark.parametrize('mode', ['L', 'P', 'I;16'])
@pytest.mark.parametrize('test_mode', [False, True], ids=['train', 'val'])
def test_masks_of_0_and_255_are_refused(mode, test_mode, tmp_path):
    """The value 255 is ignored, and so is the whole disc."""
    root = make(tmp_path, (0, 255), mode='L' if mode == 'P' else mode)
    if mode == 'P':
        for file in (root / 'maps').iterdir():
            labels = np.array(Image.open(file))
            image = Image.fromarray(labels, 'P')
            image.putpalette([0, 0, 0] * 255 + [255, 255, 255])
            image.save(file)
    message = refused(root, test_mode=test_mode)
    assert message == (
        f'The 6 label maps of {root}/maps hold the values 0, 255 only, of '
        "which 255 is ignored, so that 'disc' would never be learned; save "
        'them with the values 0 to 1, or set values of the data sets, '
        'such as values=[0, 255].'
    )


def test_masks_of_0_and_255_are_found_behind_others(tmp_path, monkeypatch):
    """All maps are read before they are refused, else a sample."""
    monkeypatch.setattr(label_maps, 'LOOKED_AT', 3)
    monkeypatch.setattr(label_maps, '_CHUNK', 2)
    root = make(tmp_path, (0, 255), count=9)
    assert 'The 9 label maps' in refused(root)
    make(tmp_path / 'last', count=9)
    (tmp_path / 'last/maps/8.png').rename(root / 'maps/8.png')
    assert len(build(root)) == 9


def test_a_sample_of_many_maps_is_read(tmp_path, monkeypatch, warned):
    monkeypatch.setattr(label_maps, 'LOOKED_AT', 4)
    monkeypatch.setattr(label_maps, '_CHUNK', 2)
    read: list[str] = []
    stock = label_maps.read_label_map
    monkeypatch.setattr(
        label_maps,
        'read_label_map',
        lambda path, *args: read.append(Path(path).stem) or stock(path),
    )
    root = make(tmp_path, count=9)
    build(root)
    assert sorted(read) == ['0', '3']  # both classes are found
    read.clear()
    build(root, metainfo=dict(classes=(*CLASSES, 'cat', 'dog')))
    assert sorted(read) == ['0', '1', '3', '6']  # spread over the set
    assert warned == [
        f'In 4 of 9 label maps of {root}/maps there is no pixel of 2 of the '
        '4 classes (cat, dog); check their values and the classes if this '
        'is unexpected.'
    ]


def test_bitmaps_and_indices_are_read(tmp_path, warned):
    for name, values, mode in (('a', (0, 255), '1'), ('b', (0, 1), 'L')):
        dataset = build(make(tmp_path / name, values, mode))
        for sample in dataset:
            bright = sample['img'].max(axis=2) > 150
            assert np.array_equal(sample['gt_seg_map'] == 1, bright)
            assert np.array_equal(sample['gt_seg_map'] == 0, ~bright)
    assert not warned


@pytest.mark.parametrize(
    ('values', 'mode', 'match'),
    [
        ((0, 128), 'L', r'0\.png holds the value 128, beyond the 2 classes'),
        ((76, 150), 'L', r'0\.png holds the value 150, beyond'),
        ((0, 255), 'RGB', r'0\.png holds colours .* palette'),
    ],
    ids=['128', 'grey', 'colours'],
)
def test_wrong_values_are_refused_at_the_start(values, mode, match, tmp_path):
    root = make(tmp_path, values, mode)
    with pytest.raises(LabelMapError, match=match):
        build(root)


def test_jpeg_label_maps_are_refused(tmp_path):
    root = make(tmp_path, suffix='jpg')
    message = refused(root, seg_map_suffix='.jpg')
    assert 'maps/0.jpg is a JPEG file, whose compression changes' in message


def few_bits(labels: np.ndarray, bits: int) -> bytes:
    """Return a grey PNG file of 2 or 4 bits a pixel, which Pillow spreads."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack('>I', len(data)) + name + data + check.to_bytes(4)

    height, width = labels.shape
    parts = labels.reshape(height, -1, 8 // bits).astype(np.uint8)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    packed = (parts << shifts).sum(axis=-1).astype(np.uint8)
    rows = np.insert(packed, 0, 0, axis=1).tobytes()  # no filter
    header = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )


def test_values_are_read_as_stored(tmp_path):
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4
    file = tmp_path / 'a.tif'
    for kind in (np.uint8, np.int8, np.uint16, np.int16, np.int32, '>u2'):
        stored = labels.astype(kind)
        stored[0, 0] = -1 if np.dtype(kind).kind == 'i' else 250
        tifffile.imwrite(file, stored, photometric='minisblack')
        assert np.array_equal(read_label_map(str(file)), stored), kind
    for bits in (2, 4):
        file = tmp_path / f'{bits}.png'
        file.write_bytes(few_bits(labels, bits))
        assert np.array_equal(read_label_map(str(file)), labels)
    for top in (20, 255, 300, 65535):
        for text in (False, True):
            file = tmp_path / 'a.pgm'
            file.write_bytes(pnm(labels[..., None], top, text))
            assert np.array_equal(read_label_map(str(file)), labels)
    labels = np.tile(labels, (4, 4))
    for bits in (12, 15, 16):
        file = tmp_path / 'a.jp2'
        file.write_bytes(jpeg2000(labels[..., None], bits))
        assert np.array_equal(read_label_map(str(file)), labels)


@pytest.mark.parametrize(
    ('stored', 'options', 'match'),
    [
        (np.zeros((8, 8), np.float32), {}, 'holds fractions; save'),
        (np.zeros((3, 8, 8), np.uint8), {}, 'has 3 pages, of which one'),
        (
            np.zeros((8, 8), np.uint8),
            dict(photometric='miniswhite'),
            'white as the lowest value.*black as the lowest',
        ),
        (
            np.zeros((8, 8), bool),
            dict(photometric='miniswhite'),
            'white as the lowest value.*black as the lowest',
        ),
        (np.zeros((8, 8), np.int64), {}, r'\(no image format that Pillow'),
    ],
    ids=['floats', 'pages', 'white', 'white of 1 bit', '64 bits'],
)
def test_values_that_are_not_known(stored, options, match, tmp_path):
    file = tmp_path / 'a.tif'
    tifffile.imwrite(file, stored, **dict(photometric='minisblack') | options)
    with pytest.raises(LabelMapError, match=match):
        read_label_map(str(file))


@pytest.mark.parametrize('values', [(0, 1, 2), (0, 2), (15,), (0, 255)])
def test_gif_files_keep_their_levels(values, tmp_path):
    """Their writers number the values anew."""
    labels = np.random.default_rng(0).choice(np.uint8(values), (20, 30))
    file = tmp_path / 'a.gif'
    Image.fromarray(labels).save(file)
    assert np.array_equal(read_label_map(str(file)), labels)
    image = Image.fromarray(labels, 'P')
    image.putpalette([0, 90, 0] * 256)
    image.save(file)
    with pytest.raises(LabelMapError, match='GIF file of colours'):
        read_label_map(str(file))


def test_a_zero_that_is_a_class(tmp_path):
    """With reduce_zero_label, the ground has no label."""
    root = make(tmp_path)
    message = refused(root, reduce_zero_label=True)
    assert "of which 0 is ignored, so that 'disc' would" in message
    assert 'set reduce_zero_label=False' in message
    dataset = build(make(tmp_path, (1, 2)), reduce_zero_label=True)
    assert set(np.unique(dataset[0]['gt_seg_map'])) == {0, 1}


def test_maps_of_the_ground_alone(tmp_path, warned):
    root = make(tmp_path, (0, 0))
    assert len(build(root)) == 6
    (line,) = warned
    assert 'no pixel of 1 of the 2 classes (disc)' in line


def test_one_class_is_refused(tmp_path):
    root = make(tmp_path)
    message = refused(root, metainfo=dict(classes=('disc',)))
    assert "metainfo=dict(classes=('background', 'disc'))" in message


def test_images_without_label_maps_are_not_looked_at(tmp_path):
    root = make(tmp_path)
    images = dict(img_path='images')
    assert len(build(root, data_prefix=images, pipeline=[])) == 6
    with pytest.raises(LabelMapError, match=r'no label map of .*/0\.png'):
        build(root, data_prefix=images)[0]


@pytest.mark.shared
def test_photographs(shared, warned):
    root = shared / 'data/ade_tiny/ADEChallengeData2016'
    build(
        root,
        type='CheckedADE20KDataset',
        img_suffix='.jpg',
        metainfo=None,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
    )
    (line,) = warned
    assert line.startswith('In 22 label maps of ')
    assert 'of the 150 classes' in line


def two_classes(**head) -> Config:
    """The demo's config for two classes, as docs/segmentation.md has it."""
    config = Config.fromfile(config_path(UPERNET))
    for name in ('decode_head', 'auxiliary_head'):
        given = config.model[name]
        loss = dict(given.loss_decode, **head.get('loss_decode', {}))
        given.update({**head, 'num_classes': 2, 'loss_decode': loss})
    return config


SIGMOID = dict(
    out_channels=1, threshold=0.5, loss_decode=dict(use_sigmoid=True)
)


@pytest.mark.parametrize('head', [{}, SIGMOID], ids=['softmax', 'sigmoid'])
def test_a_single_class_is_learned(head, tmp_path):
    """By two channels or by one: the disc is found after a few steps."""
    config = two_classes(**head)
    dataset = build(
        make(tmp_path, count=3),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadLabelMap'),
            dict(type='PackSegInputs'),
        ],
    )
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = 0.5  # few steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = pseudo_collate([*dataset])
    for _ in range(15):
        data = model.data_preprocessor(batch, True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    results = model.test_step(batch)
    found = torch.cat([r.pred_sem_seg.data for r in results])
    truth = torch.cat([r.gt_sem_seg.data for r in results])
    both = ((found == 1) & (truth == 1)).sum()
    either = ((found == 1) | (truth == 1)).sum()
    assert both / either > 0.8


def test_a_softmax_over_one_channel_is_refused():
    config = two_classes(out_channels=1, threshold=0.5)
    init_default_scope('mmseg')
    model = MODELS.build(config.model)
    hook = HOOKS.build(dict(type='OneChannelHook'))
    with pytest.raises(ValueError, match='decode_head has one channel and a'):
        hook.before_train(SimpleNamespace(model=model))
    model = MODELS.build(two_classes(**SIGMOID).model)
    hook.before_train(SimpleNamespace(model=model))


@pytest.mark.parametrize('part', ['val', 'test'])
def test_a_batch_of_several_sizes_is_refused(part):
    hook = HOOKS.build(dict(type='OneSizeHook'))
    check = getattr(hook, f'before_{part}_iter')
    small, large = torch.zeros(3, 64, 80), torch.zeros(3, 64, 90)
    check(None, 0, dict(inputs=[small, small]))
    check(None, 0, dict(inputs=[[small, large], [small, large]]))  # scales
    with pytest.raises(SimimError, match='of 80 x 64 and 90 x 64') as caught:
        check(None, 0, dict(inputs=[small, large]))
    assert f'set {part}_dataloader.batch_size to 1' in str(caught.value)


def test_more_classes_than_a_byte_counts_are_refused(tmp_path):
    root = make(tmp_path)
    for count, reduced, most in ((256, False, 255), (255, True, 254)):
        names = tuple(f'class {k}' for k in range(count))
        message = refused(
            root, metainfo=dict(classes=names), reduce_zero_label=reduced
        )
        assert f'{count} classes' in message
        assert f'at most {most};' in message


@pytest.mark.parametrize('values', [None, tuple(range(150))])
def test_some_classes_of_a_known_set(values, tmp_path):
    """As in MMSegmentation: the others are ignored."""
    root = make(tmp_path, (0, 2))
    options = dict(type='CheckedADE20KDataset', reduce_zero_label=False)
    chosen = dict(metainfo=dict(classes=('sky', 'wall')), values=values)
    dataset = build(root, **options, **chosen)
    labels = {0: 1, 2: 0}  # wall and sky
    for k in range(2):
        stored = np.asarray(Image.open(root / f'maps/{k}.png'))
        wanted = np.vectorize(labels.get)(stored)
        assert np.array_equal(dataset[k]['gt_seg_map'], wanted)
    every = build(make(tmp_path / 'b', (1, 2)), **options, **chosen)
    assert set(np.unique(every[0]['gt_seg_map'])) == {0, 255}


def test_a_loader_that_contradicts_its_data_set_is_refused(tmp_path):
    load = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadLabelMap', reduce_zero_label=True),
    ]
    dataset = build(make(tmp_path), pipeline=load)
    with pytest.raises(LabelMapError, match='reduce_zero_label=True and its'):
        dataset[0]
    reduced = build(
        make(tmp_path / 'b', (1, 2)), pipeline=load, reduce_zero_label=True
    )
    assert set(np.unique(reduced[0]['gt_seg_map'])) == {0, 1}


@pytest.mark.parametrize('threshold', [0.3, 0.7])
def test_several_views_of_one_channel(threshold):
    """The average of equal views is one of them."""
    config = Config.fromfile(
        config_path(
            'siamese_im_vit-micro-p8_seg-linear-1xb16-amp-200i_demo.py'
        )
    )
    init_default_scope('mmseg')
    config.model.decode_head.update(
        num_classes=2, out_channels=1, threshold=threshold
    )
    config.model.decode_head.loss_decode.use_sigmoid = True
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight, std=5.0)
    images = [torch.rand(3, 64, 64) * 255 for _ in range(2)]
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64))
    samples = [SegDataSample(metainfo=meta) for _ in images]
    runner = SimpleNamespace(model=model)
    with torch.no_grad():
        plain = model.test_step(dict(inputs=images, data_samples=samples))
        wanted = [one.pred_sem_seg.data.clone() for one in plain]
        HOOKS.build(dict(type='MultiScaleTestHook')).before_test(runner)
        views = [SegDataSample(metainfo=meta) for _ in images]
        data = dict(inputs=[images, images], data_samples=[views, views])
        found = runner.model.test_step(data)
    assert len(found) == 2
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.pred_sem_seg.data, other)
        assert 0 < other.mean() < 1
