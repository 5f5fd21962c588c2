"""A bad file raises a one-sentence error and runs no code."""

import codecs
import json
import pickle
import re

import numpy as np
import pytest
import timm
import torch
from mmpretrain.models import ImageClassifier, ResNet, SwinTransformer

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    read_checkpoint,
    read_weights,
    to_official,
)
from simim_plugin.checkpoint.export import convert
from simim_plugin.checkpoint.names import to_timm
from simim_plugin.commands.protocols import find_encoder
from simim_plugin.errors import SimimError

from .families import saved, timm_model
from .helpers import (
    HEADS,
    Call,
    Malicious,
    hugging_face_vit,
    our_vit,
    timm_vit,
    wrap,
)

PATCHES = 'patch_embed.projection.weight'


@pytest.fixture
def refuse(tmp_path):
    """Check that loading and converting refuse a file in one sentence."""

    def check(path, words):
        with pytest.raises(CheckpointError, match=words) as first:
            load_backbone(our_vit(), path)
        sentence = str(first.value)
        assert str(path) in sentence
        assert '\n' not in sentence
        assert re.search(r'; [^;]*\.$', sentence)  # how to fix it
        out = tmp_path / 'out'
        with pytest.raises(CheckpointError):
            convert(path, out, 'plugin', num_heads=4)
        assert not out.exists()

    return check


def test_malicious_pickles(tmp_path, refuse):
    witness, file = tmp_path / 'witness', tmp_path / 'file.pth'
    torch.save({**timm_vit().state_dict(), 'x': Malicious(witness)}, file)
    refuse(file, 'may run code')
    file.write_bytes(pickle.dumps(Malicious(witness)))
    refuse(file, 'may run code')
    # The weights of a Hugging Face folder run no code, either.
    (tmp_path / 'hf').mkdir()
    torch.save(Malicious(witness), tmp_path / 'hf' / 'pytorch_model.bin')
    with pytest.raises(CheckpointError, match='may run code'):
        load_backbone(our_vit(), tmp_path / 'hf')
    assert not witness.exists()
    torch.load(tmp_path / 'hf' / 'pytorch_model.bin', weights_only=False)
    assert witness.exists()  # the payload works


def test_malicious_detectron2_pickles(tmp_path, refuse):
    witness, file = tmp_path / 'witness', tmp_path / 'model_final.pkl'
    for protocol in (0, 2, 5):
        for content, words in (
            ({'model': Malicious(witness)}, 'open may run code'),
            (Malicious(witness), 'may run code'),
            (Call(getattr, 'x', 'join'), 'getattr may run code'),
            (Call(codecs.encode, 'x', 'rot13'), "'rot13' may run code"),
            ({'model': {'x': np.array([None])}}, 'may hold objects'),
            (Call(np.load, str(file)), r'numpy.*load may run code'),
        ):
            file.write_bytes(pickle.dumps(content, protocol=protocol))
            refuse(file, words)
    assert not witness.exists()
    file.write_bytes(pickle.dumps({'model': {'x': np.ones(99)}})[:-30])
    refuse(file, 'truncated')
    file.write_bytes(pickle.dumps([np.ones(3)]))
    refuse(file, 'holds a list')


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (Call(np.ndarray, (1,), 'O', bytes(8)), r'ndarray\(\) may run code'),
        (Call(np.dtype, 'O'), "'O' may hold objects"),
        (np.array([None]), 'may hold objects'),
        # An int64 with a field, which a state could move out of the array.
        (Call(np.dtype, ('i8', {'a': ('i8', 0)})), 'may hold objects'),
        (Call(np.dtype, [('a', 'i8')]), 'may hold objects'),
        (Call(np.dtype, 'i8,i8'), "'i8,i8' may hold objects"),
        (Call(np.dtype, '(2,)i8'), 'may hold objects'),
        (np.zeros(2, [('a', 'i8')]), 'may hold objects'),
    ],
)
def test_arrays_of_objects(tmp_path, refuse, content, words):
    file = tmp_path / 'file.pth'
    torch.save({'x': content}, file)
    refuse(file, words)
    pickled = tmp_path / 'file.pkl'
    pickled.write_bytes(pickle.dumps({'x': content}))
    refuse(pickled, 'may (hold objects|run code)')


@pytest.mark.parametrize('ending', ['pth', 'pkl'])
def test_only_the_byte_order_of_a_dtype_is_read(tmp_path, ending):
    file = tmp_path / f'file.{ending}'
    fields = ('a',), {'a': (np.dtype('i8'), 2**40)}  # outside the array
    state = (3, '<', None, *fields, 8, 1, 0)
    content = {'x': np.arange(3), 'y': Call(np.dtype, 'i8', state=state)}
    if ending == 'pth':
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    content = read_checkpoint(file)
    assert content['x'].tolist() == [0, 1, 2]
    assert pickle.loads(pickle.dumps(content['y'])) == np.dtype('i8')


def test_arrays_of_numbers_are_read_and_written_again(tmp_path):
    """MMEngine's history in a checkpoint consists of them."""
    file = tmp_path / 'file.pth'
    arrays = [
        np.arange(6, dtype=kind).reshape(2, 3)
        for kind in ['f8', 'i4', 'u1', '>f8', '>i2']
    ]
    torch.save(dict(arrays=arrays, one=np.float64(1.5)), file)
    for _ in range(2):
        content = read_checkpoint(file)
        for array, expected in zip(content['arrays'], arrays, strict=True):
            assert array.dtype == expected.dtype.newbyteorder('=')
            assert (array == expected).all()
        assert content['one'] == 1.5
        torch.save(content, file)
    # The file needs nothing of this package.
    assert b'simim_plugin' not in file.read_bytes()


def test_malicious_pickle_by_a_downstream_config(tmp_path):
    witness, file = tmp_path / 'witness', tmp_path / 'file.pth'
    torch.save({**timm_vit().state_dict(), 'x': Malicious(witness)}, file)
    arch = dict(
        embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=256
    )
    backbone = dict(type='SiameseIMViT', arch=arch, img_size=32, patch_size=8)
    for pretrained in (str(file), dict(file=str(file), partial=True)):
        model = ImageClassifier(backbone=dict(backbone, pretrained=pretrained))
        with pytest.raises(CheckpointError, match='may run code'):
            model.init_weights()
    init_cfg = dict(type='Pretrained', checkpoint=str(file))
    with pytest.raises(SimimError, match='pretrained=FILE'):
        ImageClassifier(backbone=dict(backbone, init_cfg=init_cfg))
    assert not witness.exists()


def test_broken_files(tmp_path, refuse):
    file = tmp_path / 'file.pth'
    refuse(file, 'There is no checkpoint file')
    file.write_bytes(b'')
    refuse(file, 'is an empty file')
    torch.save(timm_vit().state_dict(), file)
    file.write_bytes(file.read_bytes()[:-1000])
    refuse(file, 'truncated')
    other = tmp_path / 'file.safetensors'
    other.write_bytes(b'no such format')
    refuse(other, 'truncated')
    refuse(tmp_path, r'is a folder without model\.safetensors')
    (tmp_path / 'config.json').write_text('{')
    torch.save(timm_vit().state_dict(), tmp_path / 'pytorch_model.bin')
    refuse(tmp_path, 'no JSON')


@pytest.mark.parametrize('shape', [(), (24,), (24, 3, 2, 8, 8)])
def test_kernels_of_no_images(tmp_path, shape):
    state = timm_vit().state_dict()
    state['patch_embed.proj.weight'] = torch.zeros(shape)
    torch.save(state, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match='patch embedding'):
        read_weights(tmp_path / 'file.pth').options(HEADS)


@pytest.mark.parametrize(
    'change',
    [
        lambda weight: weight[None],
        lambda weight: weight.mean(),
        lambda weight: weight[:0],
        lambda weight: (weight * 100).to(torch.int8),  # quantised
        lambda weight: weight.to(torch.complex64),
    ],
    ids=['deep', 'number', 'empty', 'whole numbers', 'complex'],
)
def test_tensors_that_no_vit_has(tmp_path, refuse, change):
    """Copying integers or complex numbers into a ViT would change them."""
    state = timm_vit().state_dict()
    name = 'blocks.1.attn.proj.weight'
    state[name] = change(state[name])
    torch.save(state, tmp_path / 'file.pth')
    refuse(tmp_path / 'file.pth', r'1 tensors of another shape.*attn\.proj')


@pytest.mark.parametrize(
    'change',
    [
        lambda state: state.pop('blocks.0.attn.v_bias'),
        lambda state: state.update(
            {'blocks.0.attn.v_bias': torch.zeros(3, 3)}
        ),
        lambda state: state.update(
            {'blocks.0.attn.relative_position_bias_table': torch.ones(7, 4)}
        ),
    ],
    ids=['one bias', 'two shapes', 'no square'],
)
def test_parts_that_do_not_fit_together(tmp_path, change):
    state = timm_model('beit').state_dict()
    change(state)
    torch.save(state, tmp_path / 'file.pth')
    vit = our_vit(**read_weights(saved('beit', tmp_path)[1]).options(HEADS))
    torch.save(state, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match=r'v_bias|not show their grid'):
        load_backbone(vit, tmp_path / 'file.pth')


@pytest.mark.parametrize('name', ['', '.', '..', 'folder', '../x', '/x'])
def test_an_index_names_files_in_its_folder(tmp_path, name):
    """Other names would read other files, or the folder without end."""
    (tmp_path / 'folder').mkdir()
    index = tmp_path / 'pytorch_model.bin.index.json'
    index.write_text(json.dumps(dict(weight_map={'x': name})))
    with pytest.raises(CheckpointError, match='which is no file in its'):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ('about', 'words'),
    [
        (dict(layer_norm_eps='x'), 'layer_norm_eps'),
        (dict(layer_norm_eps=-1.0), 'layer_norm_eps'),
        (dict(hidden_act=['gelu']), 'hidden_act'),
        (dict(num_attention_heads=True), '--num-heads'),
        (dict(vision_config=[]), '--num-heads'),
    ],
    ids=str,
)
def test_a_broken_config_of_hugging_face(tmp_path, about, words):
    hugging_face_vit().save_pretrained(tmp_path)
    file = tmp_path / 'config.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | about))
    with pytest.raises(CheckpointError, match=words):
        read_weights(tmp_path).options()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_values_that_are_not_finite(tmp_path, refuse, value):
    state = timm_vit().state_dict()
    state['blocks.1.attn.proj.bias'][3] = value
    torch.save(state, tmp_path / 'file.pth')
    refuse(tmp_path / 'file.pth', r'not finite in 1 of 30.*attn\.proj\.bias')


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (dict(), 'no tensor'),
        (dict(optimizer={}, epoch=3), 'no tensor'),
        (ResNet(18).state_dict(), r'no ViT.*conv1\.weight'),
        (
            dict(state_dict=wrap(ResNet(18).state_dict(), 'backbone.')),
            'no ViT',
        ),
        (
            dict(state_dict=SwinTransformer('tiny').state_dict()),
            'tensors of Swin',
        ),
        (timm_vit(embed_dim=128).state_dict(), 'of another shape'),
        (
            {**timm_vit().state_dict(), 'blocks.0.attn.sink': torch.ones(4)},
            r'unknown \(layers\.0\.attn\.sink',
        ),
        (
            {**timm_vit().state_dict(), 'sink': torch.ones(4)},
            r'unknown \(unknown\.sink',
        ),
        (
            timm.create_model('convnext_atto').state_dict(),
            'tensors of ConvNeXt',
        ),
        (
            {
                **timm_vit().state_dict(),
                'blocks.0.mlp.norm.weight': torch.ones(4),
            },
            'norms in MLPs without gates',
        ),
        (
            {'text_model.encoder.layers.0.mlp.fc1.weight': torch.ones(4, 4)},
            'tensors of a text encoder',
        ),
        (
            {'patch_embed.backbone.stem.conv.weight': torch.ones(4, 3, 7, 7)},
            'tensors of a hybrid ViT',
        ),
    ],
)
def test_other_architectures_and_tasks(tmp_path, refuse, content, words):
    torch.save(content, tmp_path / 'file.pth')
    vit = timm_vit(embed_dim=128).state_dict()
    if content.keys() == vit.keys():  # can be converted, not loaded
        with pytest.raises(CheckpointError, match=words):
            load_backbone(our_vit(), tmp_path / 'file.pth')
    else:
        refuse(tmp_path / 'file.pth', words)


@pytest.mark.parametrize('use', [load_backbone, convert, find_encoder])
@pytest.mark.parametrize(
    'change',
    [
        lambda state: state.update(
            {PATCHES: state[PATCHES][:, :, None].repeat(1, 1, 2, 1, 1)}
        ),
        lambda state: state.pop(PATCHES),
    ],
    ids=['video', 'missing'],
)
def test_other_patch_embeddings(tmp_path, use, change):
    """A mark other than the patch embedding identifies a released file."""
    state = our_vit().state_dict()
    change(state)
    state = to_official(wrap(state, 'backbone.'))
    state['mm_cls_token'] = state['cls_token']
    file = tmp_path / 'file.pth'
    torch.save(dict(model=state), file)
    with pytest.raises(CheckpointError) as caught:
        if use is load_backbone:
            use(our_vit(), file, resize_patches=True)
        elif use is convert:
            use(file, tmp_path / 'out', 'plugin', num_heads=4)
        else:
            use(read_weights(file))
    assert PATCHES in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('heads', ['4', -4, 2.0, 3])
def test_heads_that_are_no_number(tmp_path, heads):
    content = dict(
        state_dict=wrap(our_vit().state_dict(), 'backbone.'),
        meta=dict(num_attention_heads=heads),
    )
    torch.save(content, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match=r'found .*; pass --num-heads'):
        convert(tmp_path / 'file.pth', tmp_path / 'out', 'plugin')


def test_no_tensor_fits_in_part(tmp_path):
    torch.save(timm_vit(embed_dim=128).state_dict(), tmp_path / 'file.pth')
    with pytest.raises(CheckpointError, match='none of its'):
        load_backbone(our_vit(), tmp_path / 'file.pth', partial=True)
    with pytest.raises(CheckpointError, match="no branch 'momentum'"):
        load_backbone(our_vit(), tmp_path / 'file.pth', branch='momentum')


@pytest.mark.parametrize('row', [True, False])
def test_a_table_that_fits_two_grids(tmp_path, row):
    """48 patches and a cls token have as many rows as 49 patches."""
    state = our_vit(img_size=(48, 64), patch_size=8).state_dict()
    table = state['pos_embed'].clone()
    table[:, 0] = 0
    state['pos_embed'] = table
    named = to_timm({f'backbone.{n}': x for n, x in state.items()})
    if not row:
        named['pos_embed'] = table[:, 1:]
    file = tmp_path / 'a.pth'
    torch.save(named, file)
    vit = our_vit(img_size=(48, 64), patch_size=8)
    if row:
        with pytest.raises(CheckpointError, match='6 x 8 patches and a cls'):
            load_backbone(vit, file)
    load_backbone(vit, file, grid=(6, 8))
    assert torch.equal(vit.pos_embed, table)
