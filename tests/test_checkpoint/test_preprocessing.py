"""The mean, std and crop of an encoder are those of its file."""

import json
import re

import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    read_weights,
)
from simim_plugin.checkpoint.export import convert
from simim_plugin.models import SiameseIMViT

from .families import saved
from .helpers import HEADS, SIZE, hugging_face_vit, timm_vit

HALF = (127.5,) * 3


def timm_folder(folder, **config):
    """Write a folder as timm does for its hub."""
    save_file(timm_vit().state_dict(), folder / 'model.safetensors')
    config = dict(architecture='vit_base_patch16_224', **config)
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


AUGREG = dict(
    mean=[0.5] * 3, std=[0.5] * 3, crop_pct=0.9, interpolation='bilinear'
)


@pytest.mark.parametrize('name', ['', 'model.safetensors'])
@pytest.mark.parametrize('nested', [True, False])
def test_the_description_of_timm(tmp_path, nested, name):
    config = dict(pretrained_cfg=AUGREG) if nested else AUGREG
    timm_folder(tmp_path, **config, global_pool='token')
    family = read_weights(tmp_path / name).family
    assert family.known and family.name == 'plain ViT'
    assert (family.mean, family.std) == (HALF, HALF)
    assert (family.crop, family.interpolation) == (0.9, 'bilinear')
    assert family.pool == 'cls'


def test_the_description_of_hugging_face(tmp_path):
    hugging_face_vit().save_pretrained(tmp_path)
    assert not read_weights(tmp_path).family.known
    hf.ViTImageProcessor().save_pretrained(tmp_path)
    family = read_weights(tmp_path).family
    assert family.known
    assert (family.mean, family.std, family.crop) == (HALF, HALF, 1.0)
    assert family.interpolation == 'bilinear'
    hf.CLIPImageProcessor(
        size=dict(shortest_edge=256), crop_size=224
    ).save_pretrained(tmp_path)
    family = read_weights(tmp_path).family
    assert family.mean[0] == pytest.approx(122.77, abs=0.01)
    assert (family.crop, family.interpolation) == (224 / 256, 'bicubic')


def test_msn_of_hugging_face(tmp_path):
    hugging_face_vit().save_pretrained(tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    config['model_type'] = 'vit_msn'
    (tmp_path / 'config.json').write_text(json.dumps(config))
    assert read_weights(tmp_path).family[:1] == ('MSN',)


@pytest.mark.parametrize(
    'change',
    [
        dict(mean=[]),
        dict(std=[0.5, 0, 0.5]),
        dict(mean='x'),
        dict(interpolation={}),
    ],
)
def test_a_broken_description_is_refused(tmp_path, change):
    timm_folder(tmp_path, pretrained_cfg={**AUGREG, **change})
    with pytest.raises(CheckpointError, match='is no mean, std or crop'):
        read_weights(tmp_path)


def line_of(file, logged):
    options = read_weights(file).options(HEADS)
    load_backbone(SiameseIMViT(img_size=SIZE, **options), file)
    return logged[-1]


def test_the_line_tells_the_family(tmp_path, logged):
    _, file = saved('clip', tmp_path)
    line = line_of(file, logged)
    assert re.search(r'CLIP: cls token, mean 122\.8 .* 90\.0 %', line)
    assert 'does not state' not in line
    torch.save(timm_vit().state_dict(), tmp_path / 'plain.pth')
    line = line_of(tmp_path / 'plain.pth', logged)
    assert re.search(r'plain ViT: .* does not state mean and std.*set', line)


@pytest.mark.parametrize(
    ('name', 'family', 'pool'),
    [
        ('dino_deitsmall16_pretrain.pth', 'DINO', 'cls'),
        ('iBOT-teacher.pth', 'DINO', 'cls'),
        ('moco_v3_linear.pth', 'MoCo-v3', 'cls'),
        ('mocov3-vit-b.pth', 'MoCo-v3', 'cls'),
        ('checkpoint_teacher.pth', 'plain ViT', 'mean'),
        ('dino_or_ibot_or_moco.pth', 'plain ViT', 'mean'),
        ('dinov2_like.pth', 'plain ViT', 'mean'),
        ('dinosaurs.pth', 'plain ViT', 'mean'),
    ],
)
def test_names_of_backbones_alone(tmp_path, logged, name, family, pool):
    """They have the tensors of a plain ViT."""
    torch.save(dict(state_dict=timm_vit().state_dict()), tmp_path / name)
    found = read_weights(tmp_path / name).family
    assert (found.name, found.pool) == (family, pool)
    line = line_of(tmp_path / name, logged)
    if pool == 'cls':
        assert f'{family} (by its name): cls token' in line
        assert 'does not state' not in line
    else:
        assert '--cfg-options knn:test_cfg.pool=cls' in line


@pytest.mark.parametrize('inside', ['', 'model.safetensors'])
def test_the_name_of_a_folder(tmp_path, inside):
    folder = tmp_path / 'vit_small_patch16_224.dino'
    hugging_face_vit().save_pretrained(folder)
    assert read_weights(folder / inside).family.name == 'DINO'
    hf.ViTImageProcessor().save_pretrained(folder)
    family = read_weights(folder / inside).family
    assert (family.mean, family.pool, family.named) == (HALF, 'cls', True)


@pytest.mark.parametrize('config', [{}, AUGREG])
def test_the_activation_in_the_name_of_timm(tmp_path, config):
    timm_folder(tmp_path, **config)
    assert 'layer_cfgs' not in read_weights(tmp_path).options(HEADS)
    about = dict(config, architecture='vit_base_patch16_clip_quickgelu_224')
    (tmp_path / 'config.json').write_text(json.dumps(about))
    options = read_weights(tmp_path).options(HEADS)
    assert options['layer_cfgs']['act_cfg']['type'].endswith('QuickGELU')


@pytest.mark.parametrize('to', ['plugin', 'slim'])
def test_an_export_reads_images_as_its_source(tmp_path, to):
    source = tmp_path / 'source'
    source.mkdir()
    timm_folder(source, **AUGREG, global_pool='token')
    out = tmp_path / 'out.pth'
    convert(source, out, to, num_heads=HEADS)
    before, after = read_weights(source).family, read_weights(out).family
    for name in ('mean', 'std', 'crop', 'interpolation', 'pool', 'known'):
        assert getattr(after, name) == getattr(before, name)
    content = torch.load(out, weights_only=True)
    content['meta']['simim_plugin_images']['mean'] = 'grey'
    torch.save(content, out)
    with pytest.raises(CheckpointError, match='another form'):
        read_weights(out).family  # noqa: B018
