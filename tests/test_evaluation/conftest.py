import numpy as np
import pytest
import torch
from mmpretrain.models import SelfSupDataPreprocessor
from PIL import Image
from torch import nn

from simim_plugin.models import SiameseIMViT


class TinyModel(nn.Module):
    """A backbone and a preprocessor, like every MMPretrain model."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.data_preprocessor = SelfSupDataPreprocessor(
            mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0]
        )


@pytest.fixture
def tiny_model():
    torch.manual_seed(0)
    arch = dict(
        embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32
    )
    backbone = SiameseIMViT(
        arch=arch, img_size=16, patch_size=8, drop_rate=0.5
    )
    backbone.init_weights()
    return TinyModel(backbone)


@pytest.fixture
def model_of():
    return TinyModel


@pytest.fixture
def image_folder(tmp_path):
    """Create two classes of lossless 16 x 16 images, three and two each."""
    rng = np.random.default_rng(0)
    for name, count in dict(ant=3, bee=2).items():
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            path = tmp_path / name / f'{number}.png'
            Image.fromarray(pixels).save(path)
    return tmp_path
