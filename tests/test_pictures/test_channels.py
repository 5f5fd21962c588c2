"""Images of one, four and more channels: read, cut into views, pretrained."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.dataset import default_collate
from mmpretrain import get_model
from mmpretrain.registry import TRANSFORMS
from PIL import Image
from torchvision.transforms.functional import _compute_resized_output_size

from simim_plugin.checkpoint import CheckpointError
from simim_plugin.checkpoint.channels import adapt_channels
from simim_plugin.datasets import (
    EvaluationCrop,
    ImageFolder,
    LabelledFolder,
    LoadRGBImage,
    evaluation_crop,
)
from simim_plugin.errors import SimimError
from simim_plugin.evaluation import (
    extract_features,
    folder_dataset,
    image_loader,
)
from simim_plugin.models import SiameseIMViT
from simim_plugin.pictures import array_to_rgb, decode
from simim_plugin.recipes.survey import look
from simim_plugin.settings import fit_channels

from . import drawing
from .drawing import encode, noise

BANDS = np.random.default_rng(0).integers(0, 256, (8, 9, 5), dtype=np.uint8)


tiff = partial(drawing.tiff, photometric='minisblack')


LAYOUTS = {
    'side by side': tiff(BANDS, planarconfig='contig'),
    'planes': tiff(BANDS.transpose(2, 0, 1), planarconfig='separate'),
    'pages': tiff(BANDS.transpose(2, 0, 1)),
    'array': tiff(BANDS),  # 8 pages of 9 x 5
    'colours first': tiff(BANDS, photometric='rgb'),  # Pillow reads 3
    '16 bits': tiff(BANDS.astype(np.uint16) * 257, planarconfig='contig'),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_many_channels(layout):
    assert np.array_equal(decode(LAYOUTS[layout], channels=5), BANDS)


@pytest.mark.parametrize(('bands', 'kind'), [(2, 'minisblack'), (5, 'rgb')])
def test_bands_are_no_grey_and_no_colours(bands, kind, tmp_path):
    extra = ['unspecified'] * (bands - (3 if kind == 'rgb' else 1))
    pixels = BANDS[..., :bands]
    data = tiff(
        pixels, photometric=kind, planarconfig='contig', extrasamples=extra
    )
    for channels in (1, 3):
        with pytest.raises(ValueError, match=f'it has {bands} channels'):
            decode(data, channels=channels)
    assert np.array_equal(decode(data, channels=bands), pixels)
    (tmp_path / 'a.tif').write_bytes(data)
    assert look(str(tmp_path / 'a.tif')).channels == bands


@pytest.mark.parametrize(
    ('extra', 'channels'), [('unspecified', 4), ('unassalpha', 3)]
)
def test_a_fourth_channel(extra, channels, tmp_path):
    """Alpha is left out, and infrared is a channel."""
    pixels = BANDS[..., :4]
    data = tiff(pixels, photometric='rgb', extrasamples=[extra])
    (tmp_path / 'a.tif').write_bytes(data)
    assert look(str(tmp_path / 'a.tif')).channels == channels
    assert np.array_equal(decode(data), pixels[..., :3])
    assert np.array_equal(decode(data, channels=4), pixels)


def test_a_turned_stack():
    data = tiff(BANDS, planarconfig='contig', extratags=[(274, 3, 1, 6, True)])
    upright = np.rot90(BANDS, -1)
    assert np.array_equal(decode(data, channels=5), upright)
    assert np.array_equal(decode(data, turned=False, channels=5), BANDS)


@pytest.mark.parametrize('tag', [1, 6])
@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'JPEG'])
def test_one_channel_is_grey(kind, tag):
    data = encode(noise(), kind, tag)
    grey = Image.fromarray(decode(data)).convert('L')
    found = decode(data, channels=1)
    assert found.shape == (*decode(data).shape[:2], 1)
    # Pillow decodes grey straight from a JPEG's luma.
    assert np.abs(found[..., 0] - np.asarray(grey).astype(int)).max() <= 2


def test_four_channels_are_kept():
    rgba = np.dstack([noise(), noise()[..., 0]])
    assert np.array_equal(decode(encode(rgba, 'PNG'), channels=4), rgba)


@pytest.mark.parametrize(
    ('data', 'channels', 'found'),
    [
        (LAYOUTS['pages'], 4, 'it has 5 channels, and channels=4'),
        (encode(noise(), 'PNG'), 4, 'it has 3 channels, and channels=4'),
    ],
    ids=['stack', 'colour'],
)
def test_another_number_is_refused(data, channels, found):
    with pytest.raises(ValueError, match=found):
        decode(data, channels=channels)


def test_arrays_of_other_channels():
    assert np.array_equal(array_to_rgb(BANDS, channels=5), BANDS)
    bgr = noise()[..., ::-1]
    grey = np.asarray(Image.fromarray(noise()).convert('L')).astype(int)
    for array in (bgr, np.dstack([bgr, bgr[..., 0]])):
        found = array_to_rgb(array, channels=1)
        assert found.shape == (40, 60, 1)
        assert np.abs(found[..., 0] - grey).max() <= 1
    with pytest.raises(SimimError, match='no image of 5 channels'):
        array_to_rgb(bgr, channels=5)


def views(*colours) -> dict:
    return dict(type='PairedViews', size=32, online=colours, target=colours)


BLUR = dict(
    type='FastGaussianBlur',
    magnitude_range=(0.1, 2.0),
    magnitude_std='inf',
    prob=1.0,
)
LIGHT = dict(type='FastColorJitter', brightness=0.4, contrast=0.4)
SOLAR = dict(type='Solarize', thr=128, prob=1.0)


@pytest.mark.parametrize('channels', [1, 2, 4, 5, 13])
def test_views_of_any_number_of_channels(channels):
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (50, 60, channels), dtype=np.uint8)
    pair = TRANSFORMS.build(views(BLUR, LIGHT, SOLAR))(dict(img=image))
    packed = TRANSFORMS.build(dict(type='PackInputs'))(pair)
    for view in packed['inputs']:
        assert view.shape == (channels, 32, 32)


@pytest.mark.parametrize(
    'colour',
    [
        dict(type='FastGrayscale', prob=0.2),
        dict(type='FastColorJitter', saturation=0.2),
        dict(type='FastColorJitter', hue=0.1),
    ],
    ids=['grey', 'saturation', 'hue'],
)
def test_colours_that_need_three_channels_are_refused(colour):
    cut = TRANSFORMS.build(views(colour))
    for channels in (1, 5):
        image = np.zeros((40, 40, channels), np.uint8)
        with pytest.raises(SimimError, match='need images of three channels'):
            cut(dict(img=image))


@pytest.mark.parametrize('channels', [1, 5])
def test_pretraining(tmp_path, channels):
    """One step with the demo's model, from files to the loss."""
    for k in range(4):
        pixels = np.roll(np.kron(BANDS, np.ones((8, 8, 1), np.uint8)), k)
        data = tiff(pixels.transpose(2, 0, 1)[:channels])
        (tmp_path / f'{k}.tiff').write_bytes(data)
    model = get_model(
        'siamese_im_vit-micro-p8_demo',
        backbone=dict(in_channels=channels),
        data_preprocessor=dict(mean=[120.0] * channels, std=[60.0] * channels),
    )
    model.init_weights()
    steps = model._config.train_dataloader.dataset.pipeline
    (mask,) = (step for step in steps if 'grid' in step)
    (cut,) = (step for step in steps if step.type == 'PairedViews')
    pipeline = [
        dict(type='LoadRGBImage', channels=channels),
        dict(cut, online=[BLUR], target=[LIGHT]),
        mask,
        steps[-1],
    ]
    dataset = ImageFolder(str(tmp_path), pipeline=pipeline)
    batch = default_collate([dataset[k] for k in range(4)])
    data = model.data_preprocessor(batch, True)
    raw = batch['inputs'][0].float()
    assert torch.allclose(data['inputs'][0], (raw - 120) / 60)
    loss = model(**data, mode='loss')['loss']
    loss.backward()
    assert loss.isfinite()
    found = LoadRGBImage(channels=channels)(
        dict(img_path=str(tmp_path / '0.tiff'))
    )
    assert found['img'].shape == (64, 72, channels)


@pytest.mark.parametrize('how', ['mean', 'repeat'])
@pytest.mark.parametrize('channels', [1, 2, 4, 7])
def test_weights_of_three_channels(tmp_path, how, channels):
    """As timm adapts them; on a grey image the mean changes nothing."""
    options = dict(arch='deit-tiny', img_size=32, patch_size=16)
    source = SiameseIMViT(**options)
    source.init_weights()
    file = tmp_path / 'encoder.pth'
    torch.save(
        {f'backbone.{k}': v for k, v in source.state_dict().items()}, file
    )
    given = dict(options, in_channels=channels)
    model = SiameseIMViT(**given, pretrained=dict(file=file, channels=how))
    model.init_weights()
    old = source.patch_embed.projection.weight
    new = model.patch_embed.projection.weight
    if how == 'repeat':
        timm = pytest.importorskip('timm')
        expected = timm.models.adapt_input_conv(channels, old.detach())
        if channels == 1:
            expected = expected.view_as(new)
        assert torch.allclose(new, expected, atol=1e-6)
    else:
        assert torch.allclose(new.sum(1), old.sum(1), atol=1e-5)
        assert torch.equal(new[:, 0], new[:, -1])
    strict = SiameseIMViT(**given, pretrained=str(file))
    with pytest.raises(CheckpointError, match="channels='mean'"):
        strict.init_weights()
    wrong = SiameseIMViT(**given, pretrained=dict(file=file, channels='sum'))
    with pytest.raises(CheckpointError, match='mean, repeat'):
        wrong.init_weights()


@pytest.mark.parametrize('size', [(70, 90), (90, 70), (32, 32), (33, 47)])
def test_the_evaluation_crop_is_that_of_the_configs(size):
    image = noise(*size)
    crop = EvaluationCrop(28)
    found = crop(dict(img=image))
    assert found['img_shape'] == (28, 28)
    expected = dict(img=image)
    for step in (
        dict(type='NumpyToPIL', to_rgb=False),
        dict(type='torchvision/Resize', size=32, interpolation='bicubic'),
        dict(type='torchvision/CenterCrop', size=28),
    ):
        expected = TRANSFORMS.build(step)(expected)
    difference = found['img'].astype(int) - np.asarray(expected['img'])
    assert np.abs(difference).max() <= 1


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 400))
@example(256, 256, 29)
def test_sides_are_rounded_as_in_torchvision(height, width, edge):
    size = max(1, edge // 2)
    shapes = []

    def sized(image, shape):
        shapes.append(shape)
        return np.zeros((*shape, 1), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_crop, 'resize', sized)
        image = np.zeros((height, width, 1), np.uint8)
        found = EvaluationCrop(size, edge)(dict(img=image))
    wanted = _compute_resized_output_size((height, width), [edge])
    assert shapes == [tuple(wanted)]
    assert found['img'].shape == (size, size, 1)


@pytest.mark.parametrize('channels', [1, 5])
def test_transfer(tmp_path, channels):
    """Frozen features and one step of fine-tuning."""
    for name in ('ant', 'bee'):
        (tmp_path / name).mkdir()
        planes = tiff(noise(40, 60)[..., :1].transpose(2, 0, 1))
        if channels > 1:
            bands = np.kron(BANDS, np.ones((6, 6, 1), np.uint8))
            planes = tiff(bands.transpose(2, 0, 1))
        (tmp_path / name / '0.tif').write_bytes(planes)
    options = dict(
        backbone=dict(in_channels=channels),
        data_preprocessor=dict(mean=[120.0] * channels, std=[60.0] * channels),
    )
    encoder = get_model('siamese_im_vit-micro-p8_knn_demo', **options)
    encoder.init_weights()
    loader = image_loader(folder_dataset(tmp_path, 64, channels))
    features, labels = extract_features(encoder, loader)
    assert features.isfinite().all()
    assert labels.tolist() == [0, 1]
    name = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo'
    model = get_model(name, **options)
    model.init_weights()
    pipeline = [
        dict(type='LoadRGBImage', channels=channels),
        dict(type='RandomResizedCrop', scale=64, backend='cv2'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    dataset = LabelledFolder(str(tmp_path), pipeline=pipeline)
    batch = default_collate([dataset[0], dataset[1]])
    assert batch['inputs'].shape == (2, channels, 64, 64)
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode='loss')
    losses['loss'].backward()
    assert model.backbone.patch_embed.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('how', ['mean', 'repeat'])
def test_pretraining_starts_from_three_channels(tmp_path, how):
    """Both branches get the adapted kernels, and nothing else changes."""
    name, file = 'siamese_im_vit-micro-p8_demo', str(tmp_path / 'rgb.pth')
    source = get_model(name)
    source.init_weights()
    torch.save(dict(state_dict=source.state_dict()), file)
    backbone = dict(in_channels=5)
    model = get_model(name, backbone=backbone)
    model.pretrained = dict(file=file, channels=how)
    model.init_weights()
    old, new = source.state_dict(), model.state_dict()
    kernels = {n for n in old if n.endswith('patch_embed.projection.weight')}
    assert len(kernels) == 2
    for tensor, value in new.items():
        expected = old[tensor]
        if tensor in kernels:
            expected = adapt_channels(expected, 5, how)
        assert torch.equal(value, expected)
    strict = get_model(name, backbone=backbone)
    strict.pretrained = file
    with pytest.raises(CheckpointError, match="channels='mean'"):
        strict.init_weights()


@pytest.mark.parametrize(
    ('size', 'after'),
    [(64, []), ((64, 64), [dict(type='torchvision/CenterCrop', size=64)])],
    ids=['alone', 'pair'],
)
def test_a_resize_of_three_channels_is_not_dropped(size, after):
    steps = [
        dict(type='LoadRGBImage'),
        dict(type='NumpyToPIL'),
        dict(type='torchvision/Resize', size=size),
        *after,
        dict(type='PILToNumpy'),
    ]
    config = dict(
        model=dict(backbone=dict(in_channels=4)),
        test_dataloader=dict(dataset=dict(pipeline=steps)),
    )
    with pytest.raises(SimimError, match='takes three channels, and in_chan'):
        fit_channels(config)


def test_an_edge_shorter_than_the_crop_is_refused():
    with pytest.raises(SimimError, match='edge=32, which is shorter than'):
        EvaluationCrop(64, edge=32)


def test_the_colours_of_one_view_know_its_channels():
    """The ablations' view has one list of colours for both roles."""
    view = dict(type='SameView', colour=[dict(type='FastGrayscale', prob=1)])
    settings = dict(
        model=dict(backbone=dict(in_channels=4)),
        train_dataloader=dict(dataset=dict(pipeline=[view])),
    )
    assert fit_channels(settings) == ['FastGrayscale']
    (fitted,) = settings['train_dataloader']['dataset']['pipeline']
    assert fitted['colour'] == []
