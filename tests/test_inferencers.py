"""MMPretrain's own inferencers, by the names of our configs."""

import cv2
import numpy as np
import pytest
import torch
from mmpretrain import (
    FeatureExtractor,
    ImageClassificationInferencer,
    get_model,
)

from simim_plugin.checkpoint import load_weights
from simim_plugin.evaluation import folder_dataset
from simim_plugin.models import SiameseIMViT

CLASSIFIER = 'siamese_im_vit-tiny-p8_ft-1xb64-amp-coslr-10e_demo'
ENCODER = 'siamese_im_vit-tiny-p8_knn_demo'


@pytest.fixture
def image(tmp_path):
    """A photograph-like file in a folder of one class, not square."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    pixels = cv2.resize(pixels, (90, 70), interpolation=cv2.INTER_CUBIC)
    (tmp_path / 'images' / 'a').mkdir(parents=True)
    file = tmp_path / 'images' / 'a' / '0.png'
    cv2.imwrite(str(file), pixels)
    return file


def direct(image) -> torch.Tensor:
    """The image as our own evaluation sees it, normalised."""
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
        scores = model.head.fc(model.extract_feat(direct(image))[0])
    expected = scores.softmax(dim=1)[0].numpy()
    np.testing.assert_allclose(found['pred_scores'], expected, atol=1e-5)
    # Pixels in memory are BGR, as everywhere in OpenMMLab.
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
    (features,) = FeatureExtractor(other)(str(image), stage='backbone')
    with torch.no_grad():
        (expected,) = model.backbone(direct(image))
    torch.testing.assert_close(features[-1], expected[0])
