"""UPerNet's backbone computes the encoders of every family."""

import pytest
import torch

from simim_plugin.checkpoint import read_weights
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIMViT
from simim_plugin.segmentation import SiameseIMSegViT

from ..test_checkpoint.families import TIMM, saved
from ..test_checkpoint.helpers import HEADS, SIZE, images

LARGER = 48


def built(file, size, **changes):
    options = read_weights(file).options(HEADS) | changes
    model = SiameseIMSegViT(
        img_size=size, out_indices=[1], pretrained=str(file), **options
    )
    scramble_but_bias(model)
    model.init_weights()
    model.eval()
    return model


def scramble_but_bias(model):
    kept = {
        name: weight.clone()
        for name, weight in model.state_dict().items()
        if 'bias_table' in name or 'gamma' in name
    }
    for weight in model.parameters():
        weight.data.uniform_(-1, 1)
    model.load_state_dict(kept, strict=False)


@pytest.mark.parametrize('size', [SIZE, LARGER])
@pytest.mark.parametrize('kind', TIMM)
@torch.no_grad()
def test_the_encoder(tmp_path, kind, size):
    _, file = saved(kind, tmp_path)
    plain = SiameseIMViT(
        img_size=size,
        **read_weights(file).options(HEADS),
        out_type='featmap',
        pretrained=str(file),
    )
    plain.init_weights()
    plain.eval()
    wanted = plain(images(size))[0]
    found = built(file, size)(images(size))[0]
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_gradients_reach_every_parameter(tmp_path):
    _, file = saved('dinov3-plus', tmp_path)
    model = built(file, LARGER)
    model.train()
    model(images(LARGER))[0].square().mean().backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None}
    assert not idle


def test_a_trained_backbone_reads_its_own_file(tmp_path):
    _, file = saved('dinov3', tmp_path)
    model = built(file, SIZE)
    for weight in model.parameters():
        weight.data.uniform_(-1, 1)
    state = {f'backbone.{n}': x for n, x in model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'run.pth')
    again = SiameseIMSegViT(
        img_size=SIZE,
        pretrained=str(tmp_path / 'run.pth'),
        **read_weights(file).options(HEADS),
    )
    again.init_weights()
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_one_vocabulary():
    vit = SiameseIMSegViT(arch='small', img_size=32)
    shape = vit.embed_dims, vit.num_layers, vit.arch_settings['num_heads']
    assert shape == (384, 12, 6)
    with pytest.raises(SimimError, match=r"no arch 'smal'.*small"):
        SiameseIMSegViT(arch='smal', img_size=32)


def test_attention_drops(tmp_path):
    _, file = saved('augreg', tmp_path)
    model = built(file, SIZE, layer_cfgs=dict(attn_drop_rate=0.5))
    first, second = (model(images(SIZE))[0] for _ in 'ab')
    assert torch.equal(first, second)
    model.train()
    first, second = (model(images(SIZE))[0] for _ in 'ab')
    assert not torch.allclose(first, second, atol=1e-3)
