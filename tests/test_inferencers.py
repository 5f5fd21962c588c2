"""MMPretrain's inferencers with the names of our configs."""

import argparse

import cv2
import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain import (
    FeatureExtractor,
    ImageClassificationInferencer,
    get_model,
    list_models,
)
from PIL import Image, ImageOps

from simim_plugin import config_path
from simim_plugin.checkpoint import CheckpointError, load_weights, to_official
from simim_plugin.evaluation import folder_dataset
from simim_plugin.models import SiameseIMViT

from .conftest import ROOT
from .test_checkpoint.helpers import Malicious, scramble

CLASSIFIER = 'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo'
ENCODER = 'siamese_im_vit-micro-p8_knn_demo'


@pytest.fixture
def image(tmp_path):
    """Return a smooth image, not square, in a folder of one class."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    pixels = cv2.resize(pixels, (90, 70), interpolation=cv2.INTER_CUBIC)
    (tmp_path / 'images' / 'a').mkdir(parents=True)
    file = tmp_path / 'images' / 'a' / '0.png'
    cv2.imwrite(str(file), pixels)
    return file


def normalised(image) -> torch.Tensor:
    """Return the image as our evaluation passes it to a model."""
    dataset = folder_dataset(image.parents[1], 64)
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    return ((dataset[0]['inputs'].float() - mean) / std)[None]


def test_classifier_by_name(image, tmp_path):
    torch.manual_seed(0)
    model = get_model(CLASSIFIER)
    model.init_weights()
    torch.nn.init.normal_(model.head.fc.weight)
    model.eval()
    file = tmp_path / 'classifier.pth'
    torch.save(dict(state_dict=model.state_dict()), file)
    inferencer = ImageClassificationInferencer(CLASSIFIER, str(file))
    (found,) = inferencer(str(image))
    with torch.no_grad():
        scores = model.head.fc(model.extract_feat(normalised(image))[0])
    expected = scores.softmax(dim=1)[0].numpy()
    np.testing.assert_allclose(found['pred_scores'], expected, atol=1e-5)
    # OpenMMLab takes arrays as BGR.
    (same,) = inferencer(cv2.imread(str(image)))
    np.testing.assert_allclose(same['pred_scores'], expected, atol=1e-5)


def test_features_by_name(image, tmp_path):
    torch.manual_seed(0)
    model = get_model(ENCODER)
    assert isinstance(model.backbone, SiameseIMViT)
    model.init_weights()
    model.eval()
    file = tmp_path / 'encoder.pth'
    torch.save(dict(state_dict=model.state_dict()), file)
    other = get_model(ENCODER)
    load_weights(other, file)
    with torch.no_grad():
        (expected,) = model.backbone(normalised(image))
    for extractor in (
        FeatureExtractor(other),
        FeatureExtractor(ENCODER, str(file)),
        FeatureExtractor(get_model(ENCODER), str(file)),
    ):
        (features,) = extractor(str(image), stage='backbone')
        torch.testing.assert_close(features[-1], expected[0])


@pytest.mark.parametrize('kind', ['classifier', 'encoder'])
def test_by_path_from_any_folder(kind, image, tmp_path, monkeypatch):
    """A file, an array and a list, with a run's config and checkpoint."""
    config = Config.fromfile(
        config_path(f'{CLASSIFIER if kind == "classifier" else ENCODER}.py')
    )
    (tmp_path / 'run').mkdir()
    paths = str(tmp_path / 'run/config.py'), str(tmp_path / 'run/last.pth')
    config.dump(paths[0])
    torch.manual_seed(0)
    model = get_model(config)
    model.init_weights()
    if kind == 'classifier':
        torch.nn.init.normal_(model.head.fc.weight)
    torch.save(dict(meta={}, state_dict=model.state_dict()), paths[1])
    monkeypatch.chdir(tmp_path / 'run')
    model.eval()
    pixels = cv2.imread(str(image))
    with torch.no_grad():
        (features,) = model.backbone(normalised(image))
    if kind == 'classifier':
        inferencer = ImageClassificationInferencer(*paths)
        scores = model.head.fc(features).softmax(dim=1)[0].detach().numpy()
        for given in (str(image), pixels, [str(image)] * 2, [pixels] * 2):
            found = inferencer(given)
            assert len(found) == (2 if isinstance(given, list) else 1)
            for one in found:
                np.testing.assert_allclose(
                    one['pred_scores'], scores, atol=1e-5
                )
        inferencer(str(image), show_dir='drawn')
        drawn = cv2.imread('drawn/0.png')
        assert drawn is not None and drawn.shape[1] >= pixels.shape[1]
        (image.parents[1] / 'b').mkdir()
        image.rename(image.parents[1] / 'b/0.png')
        cv2.imwrite(str(image), pixels)
        inferencer = ImageClassificationInferencer(*paths)
        assert len(inferencer(image.parents[1], show_dir='both')) == 2
        for name in ('a/0.png.png', 'b/0.png.png'):
            assert np.array_equal(cv2.imread(f'both/{name}'), drawn)
        return
    extractor = FeatureExtractor(*paths)
    for given in (str(image), pixels, [str(image)] * 2, [pixels] * 2):
        found = extractor(given, stage='backbone')
        assert len(found) == (2 if isinstance(given, list) else 1)
        for one in found:
            torch.testing.assert_close(one[-1], features[0])


@pytest.mark.parametrize('tag', [1, 3, 6])
@pytest.mark.parametrize('ending', ['jpg', 'webp', 'tiff'])
def test_files_are_read_as_by_the_data_sets(tmp_path, ending, tag):
    """Upright, whatever the camera stored."""
    exif = Image.Exif()
    exif[0x0112] = tag
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(pixels).resize((90, 70), Image.BICUBIC)
    (tmp_path / 'images' / 'a').mkdir(parents=True)
    file = tmp_path / 'images' / 'a' / f'0.{ending}'
    image.save(file, exif=exif)
    model = get_model(ENCODER)
    model.init_weights()
    model.eval()
    extract = FeatureExtractor(model)
    with torch.no_grad():
        (expected,) = model.backbone(normalised(file))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    for given in (str(file), upright[..., ::-1]):
        (features,) = extract(given, stage='backbone')
        torch.testing.assert_close(features[-1], expected[0])


def test_other_pipelines_keep_their_reader(image):
    model = get_model('resnet18_8xb32_in1k')
    assert FeatureExtractor(model)(str(image))[0][0].shape == (512,)


def test_files_by_name_are_never_unpickled(tmp_path):
    witness, file = tmp_path / 'witness', tmp_path / 'evil.pth'
    torch.save(dict(state_dict={'x': Malicious(witness)}), file)
    model = get_model(CLASSIFIER)
    for load in (
        lambda: get_model(CLASSIFIER, pretrained=str(file)),
        lambda: ImageClassificationInferencer(CLASSIFIER, str(file)),
        lambda: ImageClassificationInferencer(model, str(file)),
        lambda: FeatureExtractor(ENCODER, str(file)),
    ):
        with pytest.raises(CheckpointError, match='may run code'):
            load()
    assert not witness.exists()


def test_released_files_by_name(tmp_path):
    """MMEngine's loader would skip every tensor under these names."""
    sizes = dict(backbone=dict(img_size=64), neck=dict(grid=(8, 8)))
    pretrained = get_model('siamese_im_vit-micro-p8_demo', **sizes)
    scramble(pretrained)
    # The released code has one position table for both branches.
    table = pretrained.backbone.pos_embed.data
    pretrained.target['backbone'].pos_embed.data = table
    file = tmp_path / 'released.pth'
    official = dict(model=to_official(pretrained.state_dict()))
    torch.save(dict(official, args=argparse.Namespace(lr=1.0)), file)
    for name, more in ((ENCODER, {}), ('siamese_im_vit-micro-p8_demo', sizes)):
        state = get_model(name, pretrained=str(file), **more).state_dict()
        for key, value in state.items():
            assert torch.equal(value, pretrained.state_dict()[key]), key
    with pytest.raises(CheckpointError, match=r'missing.*head\.fc'):
        ImageClassificationInferencer(CLASSIFIER, str(file))


def test_other_models_are_loaded_by_mmengine(tmp_path):
    """MMEngine accepts a partial match."""
    model = get_model('resnet18_8xb32_in1k')
    state = model.state_dict()
    bias = state.pop('head.fc.bias') + 1
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'file.pth')
    torch.nn.init.zeros_(model.head.fc.weight)
    model.head.fc.bias.data.copy_(bias)
    for load in (
        lambda: mmengine.runner.load_checkpoint(
            model, str(tmp_path / 'file.pth'), map_location='cpu'
        ),
        lambda: ImageClassificationInferencer(
            'resnet18_8xb32_in1k', str(tmp_path / 'file.pth')
        ),
    ):
        load()
    assert torch.equal(model.head.fc.weight, state['head.fc.weight'])
    assert torch.equal(model.head.fc.bias, bias)


@pytest.mark.parametrize('folder', ['classification', 'robustness'])
def test_configs_are_listed(folder):
    files = (ROOT / 'configs' / folder).glob('*.py')
    assert {file.stem for file in files} <= set(list_models('siamese_im*'))
