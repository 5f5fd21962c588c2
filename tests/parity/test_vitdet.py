"""ViTDet's backbone and pyramid agree with Detectron2."""

import pytest
import torch
from torch import nn

from simim_plugin.checkpoint.names import from_any
from simim_plugin.detection import SiameseIMFeaturePyramid, SiameseIMViTDet

from . import relative_error

ARCH = dict(
    embed_dims=48,
    num_layers=4,
    num_heads=3,
    feedforward_channels=192,
    global_attn_indexes=[1, 3],
)


class Detector(nn.Module):
    """The two parts that the reference covers."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SiameseIMViTDet(
            arch=ARCH, img_size=64, pretrain_img_size=32, window_size=3
        )
        self.neck = SiameseIMFeaturePyramid(48, out_channels=16)


def renamed(arrays, prefix):
    """Give arrays of Detectron2's names our names; some are slices."""
    given = {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
    # The reader recognises the format by this tensor.
    given.setdefault('net.patch_embed.proj.weight', torch.zeros(1))
    found = from_any(dict(model=given), 'the reference')
    assert found.form.name == 'Detectron2'
    return found.state


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_features_levels_and_gradients(reference, dtype):
    arrays = reference('vitdet_square')
    model = Detector().to(dtype)
    weights = renamed(arrays, 'param/')
    model.load_state_dict(weights)  # all names match
    features = model.backbone(torch.from_numpy(arrays['input']).to(dtype))
    levels = model.neck(features)
    loss = sum(level.square().mean() for level in levels)
    loss.backward()
    assert relative_error(features[0], arrays['last_feat']) < 1e-5
    assert len(levels) == 5
    for stride, level in enumerate(levels, 2):
        assert relative_error(level, arrays[f'out/p{stride}']) < 1e-5
    assert relative_error(loss, arrays['loss']) < 1e-5
    gradients = renamed(arrays, 'grad/')
    del gradients['backbone.patch_embed.projection.weight']
    assert len(gradients) == 13
    for name, gradient in gradients.items():
        value = model.get_parameter(name).grad
        assert relative_error(value, gradient) < 1e-5, name
