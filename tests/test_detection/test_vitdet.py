"""ViTDet's backbone and pyramid: Detectron2's numbers, and properties."""

import json

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

import simim_plugin.engine  # noqa: F401  registers the constructor
from simim_plugin.checkpoint import CheckpointError, read_weights
from simim_plugin.detection import SiameseIMFeaturePyramid, SiameseIMViTDet
from simim_plugin.detection.attention import attend
from simim_plugin.detection.vitdet import block
from simim_plugin.errors import SimimError

from ..parity import relative_error
from ..test_checkpoint.helpers import our_vit, scramble

ARCH = dict(
    embed_dims=48,
    num_layers=4,
    num_heads=3,
    feedforward_channels=192,
    global_attn_indexes=[1, 3],
)


def backbone(**options) -> SiameseIMViTDet:
    settings = dict(arch=ARCH, img_size=64, pretrain_img_size=32)
    return SiameseIMViTDet(**{**settings, 'window_size': 3, **options})


def trained(**options) -> SiameseIMViTDet:
    """Return a backbone of random parameters, in evaluation mode."""
    model = backbone(**options)
    scramble(model)  # returns what MMPretrain's eval() does: None
    return model


class Detector(nn.Module):
    """The model of the golden numbers: a backbone and a pyramid."""

    def __init__(self, **options):
        super().__init__()
        self.backbone = backbone(**options)
        self.neck = SiameseIMFeaturePyramid(48, out_channels=16)


@pytest.mark.shared
@pytest.mark.parametrize('case', ['square', 'rect'])
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_golden(shared, tmp_path, case, with_cp, prefix):
    folder = shared / 'golden' / 'vitdet'
    info = json.loads((folder / f'vitdet_{case}.json').read_text())
    with np.load(folder / f'vitdet_{case}.npz') as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file}
    given = {
        prefix + name.removeprefix('param/'): value
        for name, value in arrays.items()
        if name.startswith('param/')
    }
    torch.save({'model': given}, tmp_path / 'model.pth')
    weights = read_weights(tmp_path / 'model.pth')
    assert weights.form.name == 'Detectron2'
    model = Detector(
        pretrain_img_size=info['pretrain_img_size'], with_cp=with_cp
    ).double()
    model.load_state_dict(weights.state)  # strict
    features = model.backbone(arrays['input'])
    assert relative_error(features[0].detach(), arrays['last_feat']) < 1e-9
    levels = model.neck(features)
    assert len(levels) == 5
    for stride, level in enumerate(levels, 2):
        assert relative_error(level.detach(), arrays[f'out/p{stride}']) < 1e-9
    loss = sum(level.square().mean() for level in levels)
    assert relative_error(loss.detach(), arrays['loss']) < 1e-9
    loss.backward()
    # Rename the gradients as the tensors of a file.
    gradients = {
        prefix + name.removeprefix('grad/'): value
        for name, value in arrays.items()
        if name.startswith('grad/')
    }
    mark = f'{prefix}net.patch_embed.proj.weight'
    gradients.setdefault(mark, torch.zeros(1))
    torch.save({'model': gradients}, tmp_path / 'gradients.pth')
    named = read_weights(tmp_path / 'gradients.pth').state
    del named['backbone.patch_embed.projection.weight']
    assert len(named) == sum(n.startswith('grad/') for n in arrays) > 10
    for name, gradient in named.items():
        got = model.get_parameter(name).grad
        assert relative_error(got, gradient) < 1e-9, name


@pytest.mark.shared
def test_detectron2_files_load_as_pretrained(shared, tmp_path):
    """With relative positions, without the pyramid."""
    file = tmp_path / 'model.pth'
    with np.load(shared / 'golden' / 'vitdet' / 'vitdet_square.npz') as arrays:
        given = {
            name.replace('param/', 'backbone.'): torch.from_numpy(arrays[name])
            for name in arrays
            if name.startswith('param/')
        }
    torch.save({'model': given}, file)
    model = backbone(pretrained=str(file))
    model.init_weights()
    rel_pos = given['backbone.net.blocks.1.attn.rel_pos_w']
    assert torch.equal(model.layers[1].attn.rel_pos_w, rel_pos.float())
    weight = given['backbone.net.blocks.3.mlp.fc1.weight']
    assert torch.equal(model.layers[3].ffn.layers[0][0].weight, weight.float())
    table = given['backbone.net.pos_embed'][:, 1:]
    assert torch.equal(model.pos_embed, table.float())


def test_a_window_that_covers_the_input_is_global():
    model = trained(window_size=4)
    windowed, everywhere = model.layers[0], model.layers[1]
    everywhere.load_state_dict(windowed.state_dict())
    tokens = torch.randn(2, 4, 4, 48)
    assert windowed.window_size == 4 and everywhere.window_size == 0
    torch.testing.assert_close(
        block(windowed, tokens), block(everywhere, tokens)
    )


def test_windows_are_independent():
    model = trained().double()  # windows of 3, padded to 6 x 6 patches
    tokens = torch.randn(1, 4, 5, 48).double()
    changed = tokens.clone()
    changed[:, 3, 4, 0] += 1  # LayerNorm undoes equal changes
    moved = block(model.layers[0], tokens) != block(model.layers[0], changed)
    assert moved.any(-1)[0].nonzero().tolist() == [[3, 3], [3, 4]]
    moved = block(model.layers[1], tokens) != block(model.layers[1], changed)
    assert moved.any(-1).all()


@pytest.mark.parametrize('size', [(64, 64), (80, 48), (30, 50)])
def test_any_size_of_image(size):
    model = trained()
    (features,) = model(torch.randn(2, 3, *size))
    assert features.shape == (2, 48, -(-size[0] // 16), -(-size[1] // 16))


def test_relative_positions_as_in_vitsam():
    """The sum of logits, on a grid with unequal sides."""
    model = trained()
    tokens = torch.randn(2, 5, 4, 48) * 9
    attn = model.layers[1].attn
    expected = attn(tokens)  # MMPretrain's explicit form
    torch.testing.assert_close(attend(attn, tokens), expected)
    attn.use_rel_pos = False
    plain = attend(attn, tokens)
    assert not torch.allclose(plain, expected, atol=1e-4)
    torch.testing.assert_close(plain, attn(tokens))


def test_drop_path_drops_attention_and_ffn():
    torch.manual_seed(0)
    model = trained(drop_path_rate=1 - 1e-7)
    model.train()
    layer = model.layers[3]
    tokens = torch.randn(2, 4, 4, 48)
    assert torch.equal(block(layer, tokens), tokens)
    assert not torch.equal(block(model.layers[0], tokens), tokens)


def test_checkpointing_keeps_few_activations():
    plain, again = trained(), trained(with_cp=True)
    images = torch.randn(2, 3, 64, 64)
    outputs = []
    for model in (plain, again):
        model.train()
        kept = []
        pack = lambda x: kept.append(x) or x  # noqa: B023, E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            (output,) = model(images)
        output.square().mean().backward()
        outputs.append((output, len(kept)))
    torch.testing.assert_close(outputs[0][0], outputs[1][0])
    assert outputs[1][1] < outputs[0][1] / 2
    for (name, one), two in zip(
        plain.named_parameters(), again.parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_position_table_has_the_size_of_pretraining():
    model = backbone()
    assert model.pos_embed.shape == (1, 4, 48)
    assert model.layers[0].attn.rel_pos_h.shape == (5, 16)
    assert model.layers[1].attn.rel_pos_h.shape == (7, 16)


def plain_vit(tmp_path, **options):
    arch = {k: v for k, v in ARCH.items() if k != 'global_attn_indexes'}
    vit = our_vit(arch=arch, img_size=64, patch_size=16, **options)
    file = tmp_path / 'plain.pth'
    state = {f'backbone.{n}': value for n, value in vit.state_dict().items()}
    torch.save({'state_dict': state}, file)
    return vit, str(file)


def test_pretrained_plain_vit(tmp_path):
    """With one window and no relative positions it equals that ViT."""
    vit, file = plain_vit(tmp_path, final_norm=True)
    model = backbone(pretrain_img_size=64, window_size=4, pretrained=file)
    model.init_weights()
    model.eval()
    assert not any(layer.attn.rel_pos_h.any() for layer in model.layers)
    state = vit.state_dict()
    for name, value in model.state_dict().items():
        if 'rel_pos' in name:
            continue
        expected = state[name][:, 1:] if name == 'pos_embed' else state[name]
        assert torch.equal(value, expected), name
    with torch.no_grad():
        tokens, _ = vit.patch_embed(torch.ones(1, 3, 64, 64))
        tokens = tokens + vit.pos_embed[:, 1:]
        for layer in vit.layers:
            tokens = layer(tokens)
        (features,) = model(torch.ones(1, 3, 64, 64))
    torch.testing.assert_close(features.flatten(2).mT, tokens)


def test_a_table_of_another_grid_is_interpolated(tmp_path):
    _, file = plain_vit(tmp_path)
    model = backbone(pretrained=file)
    model.init_weights()
    assert model.pos_embed.shape == (1, 4, 48)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    _, file = plain_vit(tmp_path)
    state = torch.load(file)
    del state['state_dict']['backbone.layers.2.ln2.weight']
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r'1 missing \(layers\.2\.ln2'):
        backbone(pretrained=file).init_weights()
    with pytest.raises(SimimError, match='pretrained=FILE'):
        backbone(init_cfg=dict(type='Pretrained', checkpoint=file))


@pytest.mark.shared
def test_layer_decay(shared):
    """Factors as in Detectron2; norms and positions are not decayed."""
    file = shared / 'golden' / 'vitdet' / 'vitdet_layer_decay.json'
    factors = json.loads(file.read_text())
    model = nn.Module()
    model.backbone = backbone(arch=dict(ARCH, num_layers=12))
    model.neck = SiameseIMFeaturePyramid(48, out_channels=16)
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='mmpretrain.LayerDecayConstructor',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1),
            paramwise_cfg=dict(
                layer_decay_rate=0.7,
                norm_decay_mult=0,
                custom_keys={'.pos_embed': dict(decay_mult=0)},
            ),
        ),
    )
    names = {param: name for name, param in model.named_parameters()}
    groups = {
        names[param]: group
        for group in wrapper.optimizer.param_groups
        for param in group['params']
    }
    assert groups.keys() == set(names.values())
    checked = 0
    for theirs, factor in factors.items():
        if theirs.startswith('roi_heads'):
            continue
        ours = (
            theirs.replace('.net.', '.')
            .replace('patch_embed.proj.', 'patch_embed.projection.')
            .replace('blocks', 'layers')
            .replace('backbone.simfp_2.0.', 'neck.levels.0.0.')
        )
        assert groups[ours]['lr'] == pytest.approx(1e-4 * factor, rel=1e-9)
        checked += 1
    assert checked == 15
    for name, group in groups.items():
        part = model.get_submodule(name.rpartition('.')[0])
        free = isinstance(part, nn.LayerNorm) or name == 'backbone.pos_embed'
        assert group['weight_decay'] == (0 if free else 0.1), name
