"""Encoders of each family give the features of the library they come from.

Each case is a small model of timm or transformers with random weights. The
file is what that library writes.
"""

import pytest
import timm
import torch
import transformers as hf

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    read_weights,
)
from simim_plugin.checkpoint.export import convert
from simim_plugin.models import SiameseIMViT

from .families import NAMES, TIMM, saved, timm_model
from .helpers import DEPTH, DIMS, HEADS, PATCH, SIZE, images, scramble

LARGER = 48


def ours(file, size, **options):
    """Build and fill the backbone that a file asks for."""
    weights = read_weights(file)
    backbone = SiameseIMViT(img_size=size, **weights.options(HEADS), **options)
    scramble(backbone, seed=99)
    load_backbone(backbone, file)
    return backbone.eval()


def equal(found, wanted):
    return (found - wanted).abs().max() <= 1e-5 * max(1, wanted.abs().max())


@pytest.mark.parametrize('kind', TIMM)
def test_timm_models(tmp_path, kind):
    model, file = saved(kind, tmp_path)
    assert read_weights(file).family.name == NAMES[kind]
    with torch.no_grad():
        wanted = model.forward_features(images())
        assert equal(ours(file, SIZE)(images())[0], wanted)


@pytest.mark.parametrize(
    'kind', [kind for kind in TIMM if not kind.startswith('beit')]
)
def test_timm_models_at_a_larger_size(tmp_path, kind):
    """BEiT has several rules: see the test of Hugging Face's models."""
    model, file = saved(kind, tmp_path)
    larger = timm_model(kind, LARGER)
    filtered = model.state_dict()
    if TIMM[kind][0] != 'Eva':
        filtered = timm.models.vision_transformer.checkpoint_filter_fn(
            filtered, larger, antialias=kind == 'dinov2-registers'
        )
    larger.load_state_dict(filtered)
    with torch.no_grad():
        wanted = larger.forward_features(images(LARGER))
        built = ours(file, LARGER)(images(LARGER))[0]
        dynamic = ours(file, SIZE)(images(LARGER))[0]
    assert equal(built, wanted)
    assert equal(dynamic, wanted)


COMMON = dict(
    hidden_size=DIMS,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    image_size=SIZE,
    patch_size=PATCH,
)
HUGGING_FACE = {
    'dinov2': ('Dinov2', {}, 'DINOv2'),
    'dinov2-swiglu': ('Dinov2', dict(use_swiglu_ffn=True), 'DINOv2'),
    'dinov2-registers': (
        'Dinov2WithRegisters',
        {},
        'DINOv2 with registers',
    ),
    'dinov3': ('DINOv3ViT', dict(num_register_tokens=4), 'DINOv3'),
    'dinov3-plus': (
        'DINOv3ViT',
        dict(num_register_tokens=4, use_gated_mlp=True, hidden_act='silu'),
        'DINOv3',
    ),
    'msn': ('ViTMSN', {}, 'plain ViT'),
    'i-jepa': ('IJepa', {}, 'I-JEPA'),
    'beit': ('Beit', dict(use_relative_position_bias=True), 'BEiT'),
    'beit-shared': (
        'Beit',
        dict(use_shared_relative_position_bias=True),
        'BEiT',
    ),
    'deit': ('DeiT', {}, 'DeiT'),
    'siglip': ('SiglipVision', {}, 'SigLIP'),
    'clip': ('CLIPVision', {}, 'CLIP'),
}


@pytest.mark.parametrize('kind', HUGGING_FACE)
def test_hugging_face_models(tmp_path, kind):
    name, options, family = HUGGING_FACE[kind]
    hidden = (
        {} if name.startswith('Dinov2') else dict(intermediate_size=4 * DIMS)
    )
    config = getattr(hf, f'{name}Config')(**COMMON, **hidden, **options)
    model = scramble(getattr(hf, f'{name}Model')(config))
    model.save_pretrained(tmp_path)
    assert read_weights(tmp_path).family.name == family
    interpolate = {}
    if name != 'DINOv3ViT' and not name.startswith('Dinov2'):
        interpolate = dict(interpolate_pos_encoding=True)
    for size in (SIZE, LARGER):
        with torch.no_grad():
            wanted = model(
                images(size), output_hidden_states=True, **interpolate
            )
            found = ours(tmp_path, size)(images(size))[0]
        tokens = wanted.last_hidden_state
        if name == 'CLIPVision':  # it has the norm on the cls token only
            tokens = model.vision_model.post_layernorm(tokens)
        assert equal(found, tokens), size


@pytest.mark.parametrize('to', ['timm', 'slim', 'onnx'])
@pytest.mark.parametrize('kind', TIMM)
def test_exports(tmp_path, kind, to):
    """The converter compares the features of what it wrote."""
    if to == 'onnx' and kind not in ('dinov2-registers', 'dinov3', 'beit'):
        pytest.skip('three kinds stand for all options of the graph')
    _, file = saved(kind, tmp_path)
    out = tmp_path / 'out.pth'
    report = convert(file, out, to, num_heads=HEADS)
    assert 'differ by at most' in report
    if to == 'onnx':
        return
    one, two = read_weights(file), read_weights(out)
    assert two.options(HEADS) == one.options(HEADS)
    for name, value in one.part('backbone').items():
        if kind == 'deit-distilled' and name in ('cls_token', 'pos_embed'):
            continue  # timm's registers leave the cls token no position
        again = two.part('backbone')[name]
        assert torch.allclose(again, value, atol=1e-7), name


def test_hugging_face_has_no_such_vit(tmp_path):
    _, file = saved('dinov2-registers', tmp_path)
    with pytest.raises(CheckpointError, match=r'num_registers=4.*to timm'):
        convert(file, tmp_path / 'hf', 'hf', num_heads=HEADS)
    assert not (tmp_path / 'hf').exists()
