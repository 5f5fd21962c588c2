"""Features: the images, the tokens, and the unchanged model."""

import numpy as np
import pytest
import torch
from PIL import Image

from simim_plugin.errors import SimimError
from simim_plugin.evaluation import (
    extract_features,
    folder_dataset,
    image_loader,
)


def pixels_of(folder, dataset):
    return [
        np.asarray(Image.open(dataset.get_data_info(i)['img_path']))
        for i in range(len(dataset))
    ]


def test_folder_gives_rgb_and_labels_in_order(image_folder):
    dataset = folder_dataset(image_folder, size=16)
    assert dataset.metainfo['classes'] == ('ant', 'bee')
    for index, pixels in enumerate(pixels_of(image_folder, dataset)):
        packed = dataset[index]
        # The images have the size of the model: nothing is resampled.
        assert np.array_equal(packed['inputs'].permute(1, 2, 0), pixels)
        assert packed['data_samples'].gt_label.item() == int(index >= 3)


@pytest.mark.parametrize(('size', 'edge'), [(16, 16), (64, 64), (112, 128)])
def test_resize_is_bicubic_and_crop_is_central(tmp_path, size, edge):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 180, 3), dtype=np.uint8))
    (tmp_path / 'only').mkdir()
    image.save(tmp_path / 'only' / 'image.png')
    got = folder_dataset(tmp_path, size)[0]['inputs'].permute(1, 2, 0).numpy()
    left, top = (2 * edge - size) // 2, (edge - size) // 2
    resized = np.asarray(image.resize((2 * edge, edge), Image.BICUBIC))
    assert np.array_equal(got, resized[top : top + size, left : left + size])


@pytest.mark.parametrize('pool', ['mean', 'cls'])
@pytest.mark.parametrize('batch_size', [2, 64])
def test_features_are_the_pooled_tokens(
    image_folder, tiny_model, pool, batch_size
):
    dataset = folder_dataset(image_folder, size=16)
    loader = image_loader(dataset, batch_size)
    features, labels = extract_features(tiny_model, loader, pool)
    pixels = np.stack(pixels_of(image_folder, dataset)).astype(np.float32)
    images = (pixels - [120, 110, 100]) / [60, 50, 40]
    tiny_model.eval()
    with torch.no_grad():
        (tokens,) = tiny_model.backbone(
            torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)
        )
    tokens = dict(mean=tokens[:, 1:].mean(1), cls=tokens[:, 0])[pool]
    torch.testing.assert_close(features, tokens)
    assert features.std(dim=0).min() > 0
    assert labels.tolist() == [0, 0, 0, 1, 1]


def test_extraction_is_deterministic_and_restores_modes(
    image_folder, tiny_model
):
    loader = image_loader(folder_dataset(image_folder, size=16))
    tiny_model.train()
    tiny_model.backbone.patch_embed.eval()
    modes = [part.training for part in tiny_model.modules()]
    first, _ = extract_features(tiny_model, loader)
    # The backbone has dropout; the features agree only in eval mode.
    second, _ = extract_features(tiny_model, loader)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [part.training for part in tiny_model.modules()] == modes


def test_wrong_backbones_and_data_are_refused(image_folder, tiny_model):
    loader = image_loader(folder_dataset(image_folder, size=16))
    with pytest.raises(SimimError, match="use 'mean', or 'cls'"):
        extract_features(tiny_model, loader, 'max')
    tiny_model.backbone.with_cls_token = False  # the first is a register
    with pytest.raises(SimimError, match="Cannot pool 'cls'"):
        extract_features(tiny_model, loader, 'cls')
    tiny_model.backbone.out_type = 'featmap'
    with pytest.raises(SimimError, match="out_type='raw'"):
        extract_features(tiny_model, loader)
    tiny_model.backbone.out_type = 'raw'
    dataset = folder_dataset(image_folder, size=16)
    for info in dataset.data_list:
        info.pop('gt_label', None)
    unlabelled = [dataset[i] for i in range(len(dataset))]
    for item in unlabelled:
        del item['data_samples'].gt_label
    with pytest.raises(SimimError, match='no single class label'):
        extract_features(tiny_model, image_loader(unlabelled))


def test_missing_or_empty_folder_is_named(tmp_path):
    with pytest.raises(SimimError, match=r'no image folder at .*gone'):
        folder_dataset(tmp_path / 'gone', 16)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(SimimError, match='no image in the sub-folders'):
        folder_dataset(tmp_path, 16)
