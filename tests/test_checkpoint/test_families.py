"""Encoders of each family give the features of the library they come from.

Each case is a small model of timm or transformers with random weights. The
file is what that library writes.
"""

import json
import re

import pytest
import timm
import torch
import transformers as hf
from safetensors.torch import save_file

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    read_weights,
)
from simim_plugin.checkpoint.export import convert
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIMViT
from simim_plugin.models.positions import absolute_table

from .capi import frequencies
from .families import EVA, NAMES, TIMM, saved, timm_model
from .helpers import (
    DEPTH,
    DIMS,
    HEADS,
    PATCH,
    SIZE,
    images,
    scramble,
    wrap,
)

LARGER = 48


def ours(file, size, branch='online'):
    """Build and fill the backbone that a file asks for."""
    weights = read_weights(file, branch)
    backbone = SiameseIMViT(img_size=size, **weights.options(HEADS))
    scramble(backbone, seed=99)
    load_backbone(backbone, file, branch=branch)
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
    if 'pos_embed' in filtered:
        library = timm.models.vision_transformer
        if TIMM[kind][0] == 'Eva':
            library = timm.models.eva
        filtered = library.checkpoint_filter_fn(
            filtered, larger, antialias=kind == 'dinov2-registers'
        )
    larger.load_state_dict(filtered)
    with torch.no_grad():
        wanted = larger.forward_features(images(LARGER))
        built = ours(file, LARGER)(images(LARGER))[0]
        dynamic = ours(file, SIZE)(images(LARGER))[0]
    assert equal(built, wanted)
    assert equal(dynamic, wanted)


def dinov2(state):
    """Name the tensors as the authors' training does, in chunks."""
    return dict(
        teacher={
            re.sub(r'blocks\.(\d+)', r'backbone.blocks.0.\1', name)
            if name.startswith('blocks.')
            else f'backbone.{name}'.replace('reg_token', 'register_tokens'): x
            for name, x in {**state, 'mask_token': torch.ones(1, DIMS)}.items()
        }
        | {'dino_head.mlp.0.weight': torch.ones(3, DIMS)}
    )


def dinov3(state):
    """Name the tensors as the authors do; keys have a masked bias."""
    named = {
        'mask_token': torch.ones(1, DIMS),
        'rope_embed.periods': torch.ones(DIMS // HEADS // 4),
        'local_cls_norm.weight': torch.ones(DIMS),
    }
    for name, value in state.items():
        name = name.replace('reg_token', 'storage_tokens')
        name = re.sub(r'gamma_(\d)', r'ls\1.gamma', name)
        for ours, theirs in ((r'fc1_g', 'w1'), ('fc1_x', 'w2')):
            name = name.replace(ours, theirs)
        if 'mlp.fc2' in name and 'blocks.0.mlp.fc1_g.weight' in state:
            name = name.replace('fc2', 'w3')
        if name.endswith('attn.q_bias'):
            start, nan = name.removesuffix('q_bias'), value * torch.nan
            v = state[f'{start}v_bias']
            named[f'{start}qkv.bias'] = torch.cat([value, v * 7, v])
            named[f'{start}qkv.bias_mask'] = torch.cat([v, nan, v])
        elif not name.endswith('attn.v_bias'):
            named[name] = value
    return named


def i_jepa(state):
    """Name the tensors as the authors do; the target is another encoder."""
    target = {name: value + 1 for name, value in state.items()}
    return dict(
        encoder=wrap(state, 'module.'),
        predictor={'module.mask_token': torch.ones(1, 1, 3)},
        target_encoder=wrap(target, 'module.'),
        epoch=300,
    )


def msn(state):
    head = {'fc.fc1.weight': torch.ones(3, DIMS)}
    return dict(
        encoder=wrap({**state, **head}, 'module.'),
        target_encoder=wrap({**state, **head}, 'module.'),
    )


def beit(state):
    """Name the tensors as BEiT's pretraining does."""
    named = {
        'mask_token': torch.ones(1, 1, DIMS),
        'lm_head.bias': torch.ones(3),
    }
    for name, value in state.items():
        named[name] = value
        if name.endswith('relative_position_bias_table'):
            start = name.removesuffix('bias_table')
            named[f'{start}index'] = torch.ones(17, 17, dtype=torch.int64)
    return dict(model=named)


def beit_of_1k(state):
    """Name the tensors as BEiT's pretraining on ImageNet-1k does.

    It has a table of positions, no relative bias and no bias of the keys.
    """
    named = {
        'mask_token': torch.ones(1, 1, DIMS),
        'lm_head.weight': torch.ones(3, DIMS),
        'lm_head.bias': torch.ones(3),
    }
    for name, value in state.items():
        if name.endswith('attn.qkv.bias'):
            start = name.removesuffix('qkv.bias')
            query, key, values = value.chunk(3)
            key.zero_()  # in the model, too
            named |= {f'{start}q_bias': query, f'{start}v_bias': values}
        else:
            named[name] = value
    return dict(model=named)


def deit(state):
    heads = {'head.weight': torch.ones(3, DIMS), 'head.bias': torch.ones(3)}
    distilled = {
        name.replace('head', 'head_dist'): value
        for name, value in heads.items()
    }
    return dict(model={**state, **heads, **distilled})


def open_clip(state):
    """Name the tensors as OpenCLIP does, beside a text encoder."""
    rows = (
        ('blocks.', 'transformer.resblocks.'),
        ('norm1.', 'ln_1.'),
        ('norm2.', 'ln_2.'),
        ('mlp.fc1.', 'mlp.c_fc.'),
        ('mlp.fc2.', 'mlp.c_proj.'),
        ('attn.qkv.', 'attn.in_proj_'),
        ('attn.proj.', 'attn.out_proj.'),
        ('patch_embed.proj.', 'conv1.'),
        ('norm_pre.', 'ln_pre.'),
    )
    named = {}
    for name, value in state.items():
        for timm_name, theirs in rows:
            name = name.replace(timm_name, theirs)
        name = {
            'cls_token': 'class_embedding',
            'pos_embed': 'positional_embedding',
        }.get(name, re.sub(r'^norm\.', 'ln_post.', name))
        named[f'visual.{name}'] = value.squeeze()
    return named | {
        'visual.conv1.weight': state['patch_embed.proj.weight'],
        'visual.proj': torch.ones(DIMS, 3),
        'token_embedding.weight': torch.ones(5, 3),
        'transformer.resblocks.0.ln_1.weight': torch.ones(3),
        'positional_embedding': torch.ones(7, 3),
    }


def eva02(state):
    """Name the tensors as the authors' pretraining does."""
    names = {
        'mlp.fc1_g': 'mlp.w1',
        'mlp.fc1_x': 'mlp.w2',
        'mlp.fc2': 'mlp.w3',
        'mlp.norm': 'mlp.ffn_ln',
        'attn.norm': 'attn.inner_attn_ln',
        'q_proj.bias': 'q_bias',
        'v_proj.bias': 'v_bias',
    }
    named = {
        'mask_token': torch.ones(1, 1, DIMS),
        'lm_head.weight': torch.ones(3, DIMS),
        'rope.freqs_cos': torch.ones(16, DIMS // HEADS),
        'blocks.0.attn.rope.freqs_sin': torch.ones(16, DIMS // HEADS),
    }
    for name, value in state.items():
        for theirs, authors in names.items():
            name = name.replace(theirs, authors)
        named[name] = value
    return dict(module=named)


AUTHORS = [
    ('eva02-norm', eva02, 'EVA-02'),
    ('eva02-clip', eva02, 'EVA-02 CLIP'),
    ('dinov2-registers', dinov2, 'DINOv2 with registers'),
    ('dinov2', dinov2, 'DINOv2'),
    ('dinov3', dinov3, 'DINOv3'),
    ('dinov3-qkv-bias', dinov3, 'DINOv3'),
    ('dinov3-plus', dinov3, 'DINOv3'),
    ('i-jepa', i_jepa, 'I-JEPA'),
    ('augreg', msn, 'MSN'),
    ('beit', beit, 'BEiT'),
    ('beit-shared', beit, 'BEiT'),
    ('augreg', beit_of_1k, 'plain ViT'),
    ('deit-distilled', deit, 'DeiT'),
    ('clip', open_clip, 'CLIP'),
]


@pytest.mark.parametrize(('kind', 'rename', 'family'), AUTHORS)
def test_names_of_the_authors(tmp_path, kind, rename, family):
    model, file = saved(kind, tmp_path)
    torch.save(rename(model.state_dict()), file)
    branch = 'teacher' if rename is dinov2 else 'online'
    assert read_weights(file, branch).family.name == family
    with torch.no_grad():
        wanted = model.forward_features(images())
        found = ours(file, SIZE, branch)(images())[0]
    assert equal(found, wanted)


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
    'msn': ('ViTMSN', {}, 'MSN'),
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


def in_mae(state):
    """Name the tensors as MAE's pretraining does."""
    decoder = {'decoder_embed.weight': torch.ones(9, DIMS)}
    return dict(model={**state, **decoder})


def in_moco(state):
    return dict(
        state_dict=wrap(state, 'module.base_encoder.')
        | wrap(state, 'module.momentum_encoder.')
        | {'module.predictor.0.weight': torch.ones(3, 3)}
    )


def in_mmpretrain_moco(state):
    """Name the tensors as MMPretrain's MoCo-v3 does."""
    vit = SiameseIMViT(
        arch='small', img_size=SIZE, patch_size=PATCH, final_norm=True
    )
    torch.save(state, 'timm.pth')
    load_backbone(vit, 'timm.pth')
    return dict(
        state_dict=wrap(vit.state_dict(), 'backbone.')
        | wrap(vit.state_dict(), 'momentum_encoder.module.0.')
        | {'head.predictor.fc0.weight': torch.ones(3, 3)}
    )


@pytest.mark.parametrize(
    ('rename', 'branch'),
    [
        (in_moco, 'online'),
        (in_moco, 'target'),
        (in_mmpretrain_moco, 'online'),
    ],
)
def test_the_small_vit_of_moco_v3_has_12_heads(
    tmp_path, monkeypatch, rename, branch
):
    monkeypatch.chdir(tmp_path)
    options = dict(img_size=SIZE, patch_size=PATCH, num_classes=0)
    vit = timm.models.VisionTransformer(embed_dim=384, num_heads=12, **options)
    scramble(vit)
    torch.save(rename(vit.state_dict()), 'moco.pth')
    convert('moco.pth', 'slim.pth', 'slim', branch=branch)
    for file in ('moco.pth', 'slim.pth'):
        weights = read_weights(
            file, branch if file == 'moco.pth' else 'online'
        )
        assert weights.family.name == 'MoCo-v3'
        backbone = SiameseIMViT(img_size=SIZE, **weights.options())
        load_backbone(backbone, 'slim.pth')
        with torch.no_grad():
            wanted = vit.forward_features(images())
            assert equal(backbone.eval()(images())[0], wanted), file
    six = SiameseIMViT(arch='small', img_size=SIZE, patch_size=PATCH)
    with pytest.raises(CheckpointError, match='trained with 12 attention'):
        load_backbone(six, 'moco.pth', branch=branch)


def in_dino(state):
    """Name the tensors as the training of DINO does, and of iBOT."""
    masked = {'module.backbone.masked_embed': torch.ones(1, DIMS)}
    head = {'head.mlp.0.weight': torch.ones(3, DIMS)}
    return dict(
        student=wrap(
            {name: -x for name, x in state.items()}, 'module.backbone.'
        )
        | masked,
        teacher=wrap(state, 'backbone.') | head,
    )


PLAIN = [
    (in_mae, 'online', 'MAE'),
    (in_moco, 'online', 'MoCo-v3'),
    (in_dino, 'teacher', 'DINO'),
    (dict, 'online', 'plain ViT'),
]


@pytest.mark.parametrize('fixed', [False, True], ids=['learned', 'sin-cos'])
@pytest.mark.parametrize('size', [SIZE, LARGER, 24])
@pytest.mark.parametrize(('rename', 'branch', 'family'), PLAIN)
def test_plain_encoders_of_all_names(
    tmp_path, rename, branch, family, size, fixed
):
    """With learned positions, and with the fixed ones of MAE and MoCo-v3."""
    model, file = saved('augreg', tmp_path)
    if fixed:
        table = absolute_table((SIZE // PATCH,) * 2, DIMS)
        model.pos_embed.data.copy_(table)
    torch.save(rename(model.state_dict()), file)
    assert read_weights(file, branch).family.name == family
    library = timm_model('augreg', size)
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(
        model.state_dict(), library, antialias=False
    )
    library.load_state_dict(filtered)
    with torch.no_grad():
        wanted = library.forward_features(images(size))
        found = ours(file, size, branch)(images(size))[0]
    assert equal(found, wanted)


@pytest.mark.parametrize('size', [SIZE, LARGER, 24])
@pytest.mark.parametrize('name', ['ViTMAE', 'ViT'])
def test_plain_encoders_of_hugging_face(tmp_path, name, size):
    """MAE, and DINO as Hugging Face publishes it."""
    config = getattr(hf, f'{name}Config')(
        **COMMON, intermediate_size=4 * DIMS, layer_norm_eps=1e-6
    )
    config.mask_ratio = 0.0
    model = scramble(getattr(hf, f'{name}Model')(config))
    model.save_pretrained(tmp_path)
    count = (size // PATCH) ** 2
    inputs = {}
    if name == 'ViTMAE':  # it sorts the patches by the noise
        inputs = dict(noise=torch.arange(1.0, count + 1)[None].repeat(2, 1))
    with torch.no_grad():
        wanted = model(
            images(size), interpolate_pos_encoding=True, **inputs
        ).last_hidden_state
        found = ours(tmp_path, size)(images(size))[0]
    assert equal(found, wanted)


EXPORTS = [
    (kind, to)
    for kind in TIMM
    for to in ('timm', 'slim')
    if (kind, to) != ('capi', 'timm')
]
# Three kinds have all options of the graph.
TO_HUGGING_FACE = [
    *('dinov2', 'dinov2-registers', 'dinov3', 'dinov3-qkv-bias'),
    *('dinov3-plus', 'dinov2-giant', 'deit3', 'augreg'),
]
EXPORTS += [(kind, 'hf') for kind in TO_HUGGING_FACE]
EXPORTS += [
    (kind, 'onnx') for kind in ('dinov2-registers', 'dinov3', 'beit', 'capi')
]


@pytest.mark.parametrize(('kind', 'to'), EXPORTS)
def test_exports(tmp_path, kind, to):
    """The converter compares the features of what it wrote."""
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


@pytest.mark.parametrize('to', ['plugin', 'slim', 'timm', 'onnx'])
@pytest.mark.parametrize('kind', ['clip', 'siglip'])
def test_exports_keep_the_activation_of_hugging_face(tmp_path, kind, to):
    name, options, _ = HUGGING_FACE[kind]
    config = getattr(hf, f'{name}Config')(
        **COMMON, intermediate_size=4 * DIMS, **options
    )
    model = scramble(getattr(hf, f'{name}Model')(config))
    model.save_pretrained(tmp_path / 'hf')
    out = tmp_path / f'out.{"onnx" if to == "onnx" else "pth"}'
    assert 'differ by at most' in convert(tmp_path / 'hf', out, to)
    if to in ('plugin', 'slim'):
        source, again = read_weights(tmp_path / 'hf'), read_weights(out)
        assert again.options() == source.options()
        assert again.options()['layer_cfgs']['act_cfg']


@pytest.mark.parametrize('to', ['timm', 'hf'])
def test_no_library_has_capi(tmp_path, to):
    _, file = saved('capi', tmp_path)
    with pytest.raises(CheckpointError, match='convert it to plugin'):
        convert(file, tmp_path / 'out', to, num_heads=HEADS)
    assert not (tmp_path / 'out').exists()


@torch.no_grad()
def test_capi_reads_visible_patches(tmp_path):
    """The registers are at the edge of what is visible."""
    model, file = saved('capi', tmp_path)
    state = wrap(model.state_dict(), 'backbone.')
    decoder = {
        'backbone.mask_token': torch.ones(1, 3),
        'backbone.decoder.blocks.0.residual1.norm.weight': torch.ones(3),
        'head.last_layer.weight_g': torch.ones(3),
    }
    torch.save({**state, **decoder}, file)
    assert read_weights(file).family.name == 'CAPI'
    visible = torch.tensor([[5, 6, 9, 14], [0, 3, 7, 4]])
    found = ours(file, SIZE)(images(), visible)
    assert equal(found, model.forward_features(images(), visible))


def test_new_frequencies_of_capi():
    vit = SiameseIMViT(
        arch='tiny', rotary='capi', num_registers=8, with_cls_token=False
    )
    found = vit.layers[3].attn.frequencies
    assert torch.allclose(found, frequencies(64), rtol=1e-5)
    assert not found.requires_grad
    with pytest.raises(SimimError, match='set a multiple of 4'):
        SiameseIMViT(rotary='capi', num_registers=3)


@pytest.mark.parametrize('kind', ['clip', 'qk-norm', 'eva02'])
def test_hugging_face_has_no_such_vit(tmp_path, kind):
    _, file = saved(kind, tmp_path)
    with pytest.raises(CheckpointError, match='convert it to timm'):
        convert(file, tmp_path / 'hf', 'hf', num_heads=HEADS)
    assert not (tmp_path / 'hf').exists()


@pytest.mark.parametrize('kind', ['dinov2-registers', 'dinov3-plus'])
def test_hugging_face_gives_the_library_of_the_source(tmp_path, kind):
    """At another size, too."""
    library, file = saved(kind, tmp_path)
    convert(file, tmp_path / 'hf', 'hf', num_heads=HEADS)
    model = hf.AutoModel.from_pretrained(tmp_path / 'hf').eval()
    with torch.no_grad():
        for size in (SIZE, LARGER):
            found = model(images(size)).last_hidden_state
            wanted = ours(file, size)(images(size))[0]
            assert equal(found, wanted), size
        assert equal(model(images())[0], library.forward_features(images()))


@pytest.mark.parametrize('kind', ['beit', 'qk-norm'])
def test_another_number_of_heads_than_that_of_the_tensors(tmp_path, kind):
    _, file = saved(kind, tmp_path)
    assert read_weights(file).options()['arch']['num_heads'] == HEADS
    with pytest.raises(CheckpointError, match='for 4 attention heads, not 2;'):
        read_weights(file).options(2)


def test_rotary_positions_of_another_kind_are_refused(tmp_path):
    """They leave no trace in the file."""
    _, file = saved('eva02', tmp_path)
    options = read_weights(file).options(HEADS)
    for kind in (None, 'dinov3'):
        backbone = SiameseIMViT(img_size=SIZE, **{**options, 'rotary': kind})
        with pytest.raises(CheckpointError, match="rotary='eva02' in the"):
            load_backbone(backbone, file)
    with pytest.raises(SimimError, match="no rotary 'eva'; use one of din"):
        SiameseIMViT(rotary='eva')
    with pytest.raises(SimimError, match="needs ffn_type='swiglu'"):
        SiameseIMViT(ffn_norm=True)


@pytest.mark.parametrize(
    'changes', [dict(num_reg_tokens=0), dict(init_values=None)]
)
def test_unknown_rotary_positions_are_refused(tmp_path, changes):
    """Such as those of the ViTs with rotary positions in timm."""
    model = timm.models.eva.Eva(
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=DIMS,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        **{**EVA, **changes},
    )
    torch.save(scramble(model).state_dict(), tmp_path / 'rope.pth')
    with pytest.raises(CheckpointError, match='is not DINOv3, so that its'):
        read_weights(tmp_path / 'rope.pth')


@pytest.mark.parametrize('rope', ['cat', 'mixed'])
@pytest.mark.parametrize('named', ['by its file', 'by its folder'])
def test_rope_vit_is_no_deit_iii(tmp_path, rope, named):
    """Beside a table of positions its rotary ones leave no trace."""
    arch = f'vit_small_patch16_rope_{rope}_ape_224'
    model = timm.models.eva.Eva(
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=DIMS,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
        init_values=1e-5,
        use_rot_pos_emb=True,
        no_embed_class=True,
        use_abs_pos_emb=True,
        attn_type='rope',
        rope_type=rope,
    )
    state = scramble(model).state_dict()
    file = tmp_path / 'model.safetensors'
    if named == 'by its folder':
        about = dict(architecture=arch)
        (tmp_path / 'config.json').write_text(json.dumps(about))
    else:
        file = tmp_path / f'{arch}.safetensors'
    save_file(state, file)
    with pytest.raises(CheckpointError, match='RoPE-ViT'):
        read_weights(file)
    model = timm_model('deit3')
    torch.save(model.state_dict(), tmp_path / 'europe.pth')
    assert read_weights(tmp_path / 'europe.pth').family.name == 'DeiT-III'


def test_capi_of_other_shapes_is_refused(tmp_path):
    """The biases that it lacks are made of its weights' shapes."""
    _, file = saved('capi', tmp_path)
    state = torch.load(file)
    name = 'encoder.blocks.0.residual2.fn.fc1.weight'
    (key,) = (k for k in state if k.endswith(name))
    state[key] = torch.tensor(1.0)
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r'layers\.0\.ffn'):
        read_weights(file)
