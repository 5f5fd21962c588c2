"""Encoders of every format give the same features after loading."""

import argparse
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmpretrain.models import ImageClassifier, resize_pos_embed
from safetensors.torch import save_file

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    load_weights,
    read_checkpoint,
    read_weights,
    to_official,
)

from ..test_models.helpers import small_model
from .helpers import (
    DEPTH,
    DIMS,
    PATCH,
    SIZE,
    hugging_face_vit,
    images,
    our_vit,
    scramble,
    timm_vit,
    wrap,
)

HEAD = {'head.0.weight': torch.randn(3, DIMS), 'head.1.bias': torch.randn(3)}
DINO_HEAD = {'head.mlp.0.weight': torch.randn(3, DIMS)}


@pytest.fixture
def save(tmp_path):
    def write(content, name='file.pth'):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def check(file, tokens, **options):
    """Check that our encoder gives these tokens once the file is loaded."""
    vit = our_vit(final_norm=True)
    with torch.no_grad():
        assert not torch.allclose(vit(images())[0], tokens, atol=0.1)
        load_backbone(vit, file, **options)
        assert (vit(images())[0] - tokens).abs().max() <= 1e-5


def features(timm):
    with torch.no_grad():
        return timm.forward_features(images())


def test_timm(save, tmp_path):
    vit = timm_vit(num_classes=5)
    state = vit.state_dict()
    check(save(state), features(vit))
    check(
        save(dict(state_dict=wrap(state, 'module.'), epoch=3)), features(vit)
    )
    save_file(state, tmp_path / 'vit.safetensors')
    check(tmp_path / 'vit.safetensors', features(vit))


def test_mae(save, logged):
    vit = timm_vit()
    decoder = {
        'mask_token': torch.randn(1, 1, 9),
        'decoder_pos_embed': torch.randn(1, 17, 9),
        'decoder_embed.weight': torch.randn(9, DIMS),
        'decoder_blocks.0.norm1.weight': torch.randn(9),
        'decoder_norm.weight': torch.randn(9),
        'decoder_pred.weight': torch.randn(12, 9),
    }
    args = argparse.Namespace(model='mae_vit_base_patch16')
    file = save(dict(model={**vit.state_dict(), **decoder}, args=args))
    check(file, features(vit))
    (line,) = logged
    assert 'MAE' in line
    assert line.endswith('dropped: decoder 6')


@pytest.mark.parametrize(
    ('branch', 'seed'), [('online', 1), ('target', 2), ('teacher', 2)]
)
@pytest.mark.parametrize('kind', ['moco', 'dino'])
def test_two_branches_by_name(save, kind, branch, seed):
    branches = {seed: timm_vit(seed) for seed in (1, 2)}
    one, two = (vit.state_dict() for vit in branches.values())
    if kind == 'moco':
        state = wrap({**one, **HEAD}, 'module.base_encoder.')
        state |= wrap({**two, **HEAD}, 'module.momentum_encoder.')
        state['module.predictor.0.weight'] = torch.randn(3, 3)
        content = dict(state_dict=state, arch='vit_base', epoch=300)
    else:
        masked = {'module.backbone.masked_embed': torch.randn(1, DIMS)}
        content = dict(
            student=wrap(one, 'module.backbone.')
            | wrap(DINO_HEAD, 'module.')
            | masked,
            teacher=wrap(two, 'backbone.') | DINO_HEAD,
            epoch=1,
        )
    check(save(content), features(branches[seed]), branch=branch)


def test_dino_and_ibot_teachers_alone(save):
    vit = timm_vit()
    state = vit.state_dict()
    check(save(state), features(vit))  # the released backbones
    file = save(
        dict(state_dict={**state, 'masked_embed': torch.ones(1, DIMS)})
    )
    check(file, features(vit))
    check(save({**wrap(state, 'backbone.'), **DINO_HEAD}), features(vit))
    file = save(dict(teacher=wrap(state, 'backbone.')))
    check(file, features(vit), branch='teacher')
    with pytest.raises(CheckpointError, match='no online encoder'):
        load_backbone(our_vit(), file)


def test_hugging_face(save, tmp_path):
    vit = hugging_face_vit()
    with torch.no_grad():
        tokens = vit(images()).last_hidden_state
    check(save(vit.state_dict()), tokens)
    classifier = {
        **wrap(vit.state_dict(), 'vit.'),
        'classifier.weight': torch.randn(3, DIMS),
        'classifier.bias': torch.randn(3),
    }
    check(save(classifier), tokens)
    for safe in (True, False):
        folder = tmp_path / f'{safe}'
        vit.save_pretrained(folder, safe_serialization=safe)
        check(folder, tokens)


def test_our_online_and_target_encoders(save, logged):
    model = scramble(small_model())
    # The released code has one position table for both branches.
    model.target['backbone'].pos_embed.data = model.backbone.pos_embed.data
    file = save(dict(state_dict=model.state_dict(), meta=dict(epoch=1)))
    official = save(dict(model=to_official(model.state_dict())), 'off.pth')
    view = images(16)
    for branch, source in (
        ('online', model.backbone),
        ('target', model.target['backbone']),
    ):
        for path in (file, official):
            vit = small_model().backbone
            load_backbone(vit, path, branch=branch)
            assert torch.equal(vit(view)[0], source(view)[0])
    assert logged[0].endswith('dropped: neck 42, projector 20, target 48')
    assert 'released SiameseIM names' in logged[1]
    # The encoder alone, under its own names.
    vit = small_model().backbone
    load_backbone(vit, save(model.backbone.state_dict()))
    assert torch.equal(vit(view)[0], model.backbone(view)[0])


def test_fine_tuned_weights_fill_a_classifier(save, logged):
    timm = timm_vit(num_classes=5, global_pool='avg')
    file = save(dict(model=timm.state_dict(), epoch=99))
    backbone = our_vit(out_type='avg_featmap')
    head = dict(type='LinearClsHead', num_classes=5, in_channels=DIMS)
    model = ImageClassifier(backbone=backbone, head=head).eval()
    load_weights(model, file)
    with torch.no_grad():
        logits = model.head((model.backbone(images())[-1],))
        assert (logits - timm(images())).abs().max() <= 1e-5
    # A frozen encoder has neither head nor fc_norm.
    frozen = ImageClassifier(backbone=our_vit(), head=None)
    load_weights(frozen, file)
    assert logged[-1].endswith('dropped: head 2, fc_norm 2')
    other = dict(type='LinearClsHead', num_classes=7, in_channels=DIMS)
    model = ImageClassifier(backbone=our_vit(), head=other)
    with pytest.raises(CheckpointError, match=r'of another shape \(head\.fc'):
        load_weights(model, file)


def test_every_part_of_a_model_is_required(save):
    pretrained = save(
        dict(state_dict=wrap(our_vit().state_dict(), 'backbone.'))
    )
    head = dict(type='LinearClsHead', num_classes=5, in_channels=DIMS)
    tuned = our_vit(out_type='avg_featmap')
    model = ImageClassifier(backbone=tuned, head=head)
    with pytest.raises(CheckpointError, match=r'4 missing \(backbone\.ln2'):
        load_weights(model, pretrained)
    # load_backbone accepts it and leaves fc_norm as it is.
    before = tuned.ln2.weight.clone()
    load_backbone(tuned, pretrained)
    assert torch.equal(tuned.ln2.weight, before)
    assert torch.equal(tuned.cls_token, our_vit().cls_token)


def test_a_trained_final_norm_is_loaded_or_reported(save, logged):
    vit = timm_vit()
    file = save(vit.state_dict())
    backbone = our_vit()
    load_backbone(backbone, file)
    assert 'final norm 2 (final_norm=True keeps the final norm)' in logged[0]
    vit.norm = torch.nn.Identity()
    tokens = features(vit)
    assert (backbone(images())[0] - tokens).abs().max() <= 1e-5
    file = save(vit.state_dict())  # it has none
    with pytest.raises(CheckpointError, match=r'missing \(ln1\.bias'):
        load_backbone(our_vit(final_norm=True), file)


def test_positions_of_another_grid(save, logged):
    state = our_vit().state_dict()
    file = save(state)
    backbone = our_vit(img_size=(40, 56))
    load_backbone(backbone, file)
    table = state['pos_embed']
    expected = resize_pos_embed(table, (4, 4), (5, 7))
    assert torch.equal(backbone.pos_embed, expected)
    assert torch.equal(backbone.pos_embed[:, 0], table[:, 0])
    assert 'interpolated: positions 4x4 -> 5x7' in logged[0]
    without = our_vit(with_cls_token=False, img_size=40)
    load_backbone(without, file)
    expected = resize_pos_embed(table, (4, 4), (5, 5))[:, 1:]
    assert torch.equal(without.pos_embed, expected)


@pytest.mark.parametrize('load', [load_backbone, load_weights])
def test_positions_of_a_grid_of_the_same_size(save, logged, load):
    """4x4 of a file, 2x8 of the model: 16 of both."""

    def table_after(state, **options):
        backbone = our_vit(img_size=(16, 64), **options)
        fill = backbone
        if load is load_weights:
            fill = ImageClassifier(backbone=backbone, head=None)
        load(fill, save(state))
        return backbone.pos_embed

    def resized(table):
        return resize_pos_embed(table, (4, 4), (2, 8))

    square = timm_vit().state_dict()
    table = table_after(square, final_norm=True)
    assert torch.equal(table, resized(square['pos_embed']))
    assert 'interpolated: positions 4x4 -> 2x8' in logged[0]
    # A trained table in a file of ours is taken to fit the model's grid.
    trained = our_vit(img_size=(16, 64)).state_dict()
    assert torch.equal(table_after(trained), trained['pos_embed'])
    assert 'interpolated' not in logged[1]
    # The values of a fixed table show its grid.
    for image, expected in (((16, 64), lambda x: x), ((32, 32), resized)):
        vit = our_vit(img_size=image)
        vit.init_weights()
        state = vit.state_dict()
        assert torch.equal(table_after(state), expected(state['pos_embed']))


def test_patch_kernels_are_resized_on_request(save, logged):
    state = our_vit(patch_size=14, img_size=56).state_dict()
    file = save(state)
    backbone = our_vit(patch_size=16, img_size=64)
    with pytest.raises(CheckpointError, match='resize_patches=True'):
        load_backbone(backbone, file)
    load_backbone(backbone, file, resize_patches=True)
    kernel = backbone.patch_embed.projection.weight
    expected = torch.nn.functional.interpolate(
        state['patch_embed.projection.weight'], (16, 16), mode='bicubic'
    )
    assert torch.equal(kernel, expected)
    assert 'patch kernel 14x14 -> 16x16' in logged[0]


def test_partial_skips_tensors_that_do_not_fit(save, logged):
    state = timm_vit().state_dict()
    del state['cls_token']
    state['norm_other.weight'] = torch.ones(DIMS)
    state['pos_embed'] = torch.ones(1, SIZE**2 // PATCH**2 + 1, 3)
    file = save(state)
    backbone = our_vit()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r'missing.*another shape.*unknown.norm_other'
    ):
        load_backbone(backbone, file)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    load_backbone(backbone, file, partial=True)
    after = backbone.state_dict()
    kept = {k for k in after if torch.equal(after[k], before[k])}
    assert kept == {'cls_token', 'pos_embed'}
    assert 'NOT filled: 2 (cls_token, pos_embed' in logged[0]


def test_partial_takes_whole_blocks_only(save):
    state = timm_vit().state_dict()
    state['blocks.1.ls1.gamma'] = torch.ones(DIMS)
    with pytest.raises(CheckpointError, match=r'part of some blocks: 1 .*1\.'):
        load_backbone(our_vit(), save(state), partial=True)


def test_deeper_encoders_are_refused(save):
    file = save(timm_vit(depth=DEPTH + 1).state_dict())
    with pytest.raises(CheckpointError, match=r'unknown \(layers\.2'):
        load_backbone(our_vit(), file)


def test_pretrained_argument(save, tmp_path):
    one, two = timm_vit(1), timm_vit(2)
    content = dict(
        student=wrap(one.state_dict(), 'module.backbone.'),
        teacher=wrap(two.state_dict(), 'backbone.'),
    )
    source = dict(file=str(save(content)), branch='teacher')
    for pretrained, vit in ((source['file'], one), (source, two)):
        backbone = our_vit(final_norm=True, pretrained=pretrained)
        backbone.init_weights()
        assert (backbone(images())[0] - features(vit)).abs().max() <= 1e-5
    assert backbone.img_size == (SIZE, SIZE)
    assert backbone.patch_resolution == (SIZE // PATCH, SIZE // PATCH)


def test_named_parameters_stay_new(save, logged):
    """A file may lack the tensors that ``stays_new`` names."""
    state = our_vit().state_dict()
    for name in ('layers.0.ln1.weight', 'layers.1.ln1.weight'):
        del state[name]
    file = save({'state_dict': wrap(state, 'backbone.')})
    vit = our_vit()
    kept = vit.layers[1].ln1.weight.clone()
    load_backbone(vit, file, stays_new=('ln1.weight',))
    assert torch.equal(vit.layers[1].ln1.weight, kept)
    with pytest.raises(CheckpointError, match=r'1 missing \(layers\.1\.ln1'):
        load_backbone(our_vit(), file, stays_new=('layers.0.ln1.weight',))
    whole = save({'state_dict': wrap(our_vit().state_dict(), 'backbone.')})
    scramble(vit, seed=3)
    load_backbone(vit, whole, stays_new=('ln1.weight',))
    expected = our_vit().state_dict()['layers.1.ln1.weight']
    assert torch.equal(vit.layers[1].ln1.weight, expected)


@pytest.mark.parametrize('protocol', [0, 2, 5])
@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_detectron2_pickle(tmp_path, protocol, module):
    """Arrays of any layout, written by NumPy 1 or 2."""
    arrays = {
        'matrix': np.arange(6, dtype=np.float32).reshape(2, 3),
        'columns': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        'big': np.arange(3, dtype='>f4'),
        'count': np.array(7),
        'half': np.ones((2, 2), np.float16),
        'none': np.zeros((0, 4), np.float32),
    }
    content = {'model': OrderedDict(arrays), '__author__': 'someone'}
    written = pickle.dumps(content, protocol=protocol)
    ours = b'numpy._core' if b'numpy._core' in written else b'numpy.core'
    if protocol < 4:  # later ones count the letters of a name
        written = written.replace(ours, module.encode())
    file = tmp_path / 'model_final.pkl'
    file.write_bytes(written)
    read = read_checkpoint(file)
    assert read['__author__'] == 'someone'
    assert read['model'].keys() == arrays.keys()
    for name, array in arrays.items():
        tensor = read['model'][name]
        assert np.array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype.newbyteorder('=')
        assert tensor.is_contiguous()


def test_detectron2_pickle_of_python_2(tmp_path):
    """Python 2 writes the bytes of an array as a string."""
    file = tmp_path / 'model_final.pkl'
    file.write_bytes(
        b"(dp0\nS'model'\np1\n(dp2\nS'x'\np3\n"
        b'cnumpy.core.multiarray\n_reconstruct\np4\n'
        b"(cnumpy\nndarray\np5\n(I0\ntp6\nS'b'\np7\ntp8\nRp9\n"
        b"(I1\n(I2\ntp10\ncnumpy\ndtype\np11\n(S'f4'\np12\nI0\nI1\ntp13\n"
        b"Rp14\n(I3\nS'<'\np15\nNNNI-1\nI-1\nI0\ntp16\nbI00\n"
        b"S'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\np17\ntp18\nbss."
    )
    assert read_checkpoint(file)['model']['x'].tolist() == [1, -2]


def test_detectron2_pickle_fills_an_encoder(tmp_path, logged):
    vit = timm_vit()
    names = {'norm.weight', 'norm.bias'}
    model = {
        f'backbone.net.{name}': value.numpy()
        for name, value in vit.state_dict().items()
        if name not in names | {'cls_token'}
    }
    file = tmp_path / 'model_final.pkl'
    file.write_bytes(pickle.dumps({'model': model, '__author__': 'someone'}))
    weights = read_weights(file)
    assert weights.form.name == 'Detectron2'
    ours = weights.part('backbone')
    assert torch.equal(ours['pos_embed'], vit.pos_embed[:, 1:])
    assert torch.equal(
        ours['layers.1.attn.qkv.weight'], vit.blocks[1].attn.qkv.weight
    )
