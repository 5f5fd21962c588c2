"""Converted weights give the same features in other libraries."""

import sys

import onnxruntime
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from safetensors.torch import load_file
from transformers import ViTModel

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    load_model,
    load_weights,
    read_weights,
    to_official,
)
from simim_plugin.checkpoint.export import convert
from simim_plugin.checkpoint.families import BY_NAME
from simim_plugin.checkpoint.names import to_timm
from simim_plugin.config_files import config_path
from simim_plugin.environment import MissingDependency
from simim_plugin.vit.arches import MICRO

from ..test_models.helpers import small_model
from ..training_processes import run_tool
from .helpers import (
    DIMS,
    HEADS,
    hugging_face_vit,
    images,
    our_vit,
    scramble,
    timm_vit,
    wrap,
)


@pytest.fixture
def pretrained(tmp_path):
    """Return a pretraining checkpoint of ours and its encoder."""
    vit = our_vit()
    state = wrap(vit.state_dict(), 'backbone.')
    state['neck.predict.weight'] = torch.zeros(3)
    torch.save(dict(state_dict=state), tmp_path / 'pretrained.pth')
    return tmp_path / 'pretrained.pth', vit


@pytest.fixture
def tuned(tmp_path):
    """Return a released fine-tuned file and timm's classifier."""
    vit = timm_vit(num_classes=5, global_pool='avg')
    content = dict(model=vit.state_dict(), epoch=99, optimizer={})
    torch.save(content, tmp_path / 'tuned.pth')
    return tmp_path / 'tuned.pth', vit


@torch.no_grad()
def difference(a, b):
    return (a - b).abs().max().item()


def test_pretraining_weights_to_timm(pretrained, tmp_path):
    file, vit = pretrained
    out = tmp_path / 'vit.safetensors'
    report = convert(file, out, 'timm', num_heads=HEADS)
    theirs = timm_vit(seed=7, global_pool='', final_norm=False)
    theirs.load_state_dict(load_file(out))
    assert (
        difference(theirs.forward_features(images()), vit(images())[0]) < 1e-5
    )
    assert 'without any norm' in report
    assert 'Left out: neck' in report
    assert "global_pool='', final_norm=False" in report
    assert 'tokens (3, 17, 64) differ by at most' in report


def test_fine_tuned_weights_to_timm(tuned, tmp_path):
    file, vit = tuned
    out = tmp_path / 'timm.pth'
    report = convert(file, out, 'timm', num_heads=HEADS)
    assert 'head or fc_norm (3, 5) differ' in report
    state = torch.load(out, weights_only=True)
    assert state.keys() == vit.state_dict().keys()
    for name, value in vit.state_dict().items():
        assert torch.equal(state[name], value), name


@pytest.mark.slow
def test_the_released_size_loads_into_timm_by_name(tmp_path):
    options = dict(num_classes=1000, global_pool='avg')
    source = timm.create_model('vit_base_patch16_224', **options)
    source = scramble(source)
    torch.save(dict(model=source.state_dict()), tmp_path / 'tuned.pth')
    out = tmp_path / 'timm.pth'
    report = convert(tmp_path / 'tuned.pth', out, 'timm')
    assert (
        "timm.create_model('vit_base_patch16_224', num_classes=1000" in report
    )
    again = timm.create_model('vit_base_patch16_224', **options).eval()
    again.load_state_dict(torch.load(out, weights_only=True))
    backbone = dict(type='SiameseIMViT', out_type='avg_featmap')
    head = dict(type='LinearClsHead', num_classes=1000, in_channels=768)
    model = ImageClassifier(backbone=backbone, head=head).eval()
    load_weights(model, tmp_path / 'tuned.pth')
    view = images(224, count=1)
    with torch.no_grad():
        logits = model.head((model.backbone(view)[-1],))
    assert difference(again(view), logits) <= 1e-5 * logits.abs().max()
    assert torch.equal(again(view), source(view))


def test_pretraining_weights_to_hugging_face(pretrained, tmp_path):
    file, vit = pretrained
    out = tmp_path / 'hf'
    report = convert(file, out, 'hf', num_heads=HEADS)
    theirs = ViTModel.from_pretrained(out).eval()
    output = theirs(images(), output_hidden_states=True)
    assert difference(output.hidden_states[-1], vit(images())[0]) < 1e-5
    assert (theirs.layernorm.weight == 1).all()
    assert (theirs.layernorm.bias == 0).all()
    assert 'before its final LayerNorm' in report
    assert 'written as 1 and 0' in report
    # Converting back removes the added norm and keeps the heads.
    convert(out, tmp_path / 'back.pth', 'slim')
    state = torch.load(tmp_path / 'back.pth', weights_only=True)['state_dict']
    assert state.keys() == wrap(vit.state_dict(), 'backbone.').keys()
    for name, value in vit.state_dict().items():
        assert torch.equal(state[f'backbone.{name}'], value), name


def test_a_final_norm_is_exported(tmp_path):
    vit = timm_vit()
    torch.save(vit.state_dict(), tmp_path / 'timm.pth')
    out = tmp_path / 'hf'
    convert(tmp_path / 'timm.pth', out, 'hf', num_heads=HEADS)
    tokens = vit.forward_features(images())
    theirs = ViTModel.from_pretrained(out).eval()
    assert difference(theirs(images()).last_hidden_state, tokens) < 1e-5
    convert(out, tmp_path / 'plugin.pth', 'plugin')
    ours = our_vit(final_norm=True)
    load_backbone(ours, tmp_path / 'plugin.pth')
    assert difference(ours(images())[0], tokens) < 1e-5
    with pytest.raises(CheckpointError, match='no norm after its last block'):
        convert(tmp_path / 'plugin.pth', tmp_path / 'off.pth', 'official')


def test_hugging_face_weights_to_timm(tmp_path):
    source = hugging_face_vit()
    source.save_pretrained(tmp_path / 'hf')
    convert(tmp_path / 'hf', tmp_path / 'timm.pth', 'timm')
    vit = timm_vit(seed=7)
    state = torch.load(tmp_path / 'timm.pth', weights_only=True)
    vit.load_state_dict(state)
    tokens = source(images()).last_hidden_state
    assert difference(vit.forward_features(images()), tokens) < 1e-5


@pytest.mark.parametrize('kind', ['pretrained', 'tuned'])
def test_onnx_with_any_batch(kind, request, tmp_path):
    file, vit = request.getfixturevalue(kind)
    out = tmp_path / 'vit.onnx'
    report = convert(file, out, 'onnx', num_heads=HEADS)
    assert 'onnxruntime' in report
    session = onnxruntime.InferenceSession(out)
    for count in (1, 4):
        view = images(count=count)
        with torch.no_grad():
            expected = dict(tokens=vit(view)[0])
            if kind == 'tuned':
                tokens = vit.forward_features(view)
                expected = dict(tokens=tokens, logits=vit(view))
        found = session.run([*expected], dict(images=view.numpy()))
        for a, b in zip(found, expected.values(), strict=True):
            assert difference(torch.from_numpy(a), b) < 1e-4
    # There is no second file with the weights.
    assert {*tmp_path.iterdir()} == {file, out}


def test_official_to_plugin_and_back_is_bit_equal(tmp_path):
    state = to_official(scramble(small_model()).state_dict())
    state['mm_mask_token'] = torch.randn(state['mask_token'].shape)
    fine_tuned = timm_vit(num_classes=5, global_pool='avg').state_dict()
    for name, source, heads in (
        ('pretraining', state, 2),
        ('fine-tuned', fine_tuned, HEADS),
    ):
        source = {k: v.half() if v.ndim > 3 else v for k, v in source.items()}
        files = [tmp_path / f'{name}.{k}' for k in range(3)]
        torch.save(dict(model=source, epoch=0), files[0])
        report = convert(files[0], files[1], 'plugin', num_heads=heads)
        assert 'Left out: epoch.' in report
        convert(files[1], files[2], 'official')  # it knows the heads
        back = torch.load(files[2], weights_only=True)['model']
        assert back.keys() == source.keys()
        for key, value in source.items():
            assert back[key].dtype == value.dtype
            assert torch.equal(back[key], value), key


def test_plugin_keeps_all_parts_and_slim_only_the_encoder(tmp_path):
    model = scramble(small_model())
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'a')
    full, slim = tmp_path / 'full.pth', tmp_path / 'slim.pth'
    report = convert(tmp_path / 'a', full, 'plugin', num_heads=2)
    assert 'for another one to start from (--pretrained)' in report
    assert '--resume needs the checkpoint that the run wrote' in report
    assert 'slim export: the encoder only' in convert(
        tmp_path / 'a', slim, 'slim', num_heads=2
    )
    content = torch.load(slim, weights_only=True)
    assert content['state_dict'].keys() == {
        *wrap(model.backbone.state_dict(), 'backbone.')
    }
    assert slim.stat().st_size < full.stat().st_size / 2
    convert(
        tmp_path / 'a',
        tmp_path / 'target.pth',
        'slim',
        branch='target',
        num_heads=2,
    )
    content = torch.load(tmp_path / 'target.pth', weights_only=True)
    for name, value in model.target['backbone'].state_dict().items():
        assert torch.equal(content['state_dict'][f'backbone.{name}'], value)
    other = small_model()
    load_model(other, full)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match=r'missing.*neck'):
        load_model(other, slim)


@pytest.mark.parametrize('channels', [1, 5])
@pytest.mark.parametrize(
    ('to', 'final_norm'),
    [
        ('plugin', False),
        ('slim', True),
        ('official', False),
        ('timm', False),
        ('timm', True),
        ('hf', True),
        ('onnx', True),
    ],
)
def test_images_of_any_number_of_channels(tmp_path, to, final_norm, channels):
    vit = our_vit(in_channels=channels, final_norm=final_norm)
    state = wrap(vit.state_dict(), 'backbone.')
    torch.save(dict(state_dict=state), tmp_path / 'in.pth')
    out = tmp_path / 'out.pth'
    report = convert(tmp_path / 'in.pth', out, to, num_heads=HEADS)
    assert 'tokens (3, 17, 64) differ by at most' in report
    assert ('in_chans=' in report) is (to == 'timm')
    if to == 'onnx':
        assert f'(batch, {channels}, 32, 32)' in report
    else:
        kernel = read_weights(out).part('backbone')
        assert kernel['patch_embed.projection.weight'].shape[1] == channels


@pytest.mark.parametrize('to', ['plugin', 'slim'])
@pytest.mark.parametrize('branch', ['online', 'teacher'])
def test_an_encoder_alone_keeps_its_family(tmp_path, monkeypatch, branch, to):
    """DINO's encoder alone has the tensors of any ViT with a final norm."""
    monkeypatch.setenv('SIMIM_SCALE', 'demo')
    config = Config.fromfile(config_path('siamese_im_rival-dino.py'))
    init_default_scope('mmpretrain')
    model = scramble(MODELS.build(config.model))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'dino.pth')
    out = tmp_path / 'out.pth'
    convert(tmp_path / 'dino.pth', out, to, branch=branch)
    assert read_weights(out).family == BY_NAME['DINO']
    content = torch.load(out, weights_only=True)
    for other in ('nothing known', ['DINO']):
        content['meta']['simim_plugin_family'] = other
        only = {
            name: value
            for name, value in content['state_dict'].items()
            if name.startswith('backbone.')
        }
        torch.save(dict(content, state_dict=only), tmp_path / 'odd.pth')
        assert read_weights(tmp_path / 'odd.pth').family.name == 'SiameseIM'


def test_entries_other_than_weights_are_reported(tmp_path):
    state = scramble(small_model()).state_dict()
    content = dict(state_dict=state, meta=dict(epoch=1), optimizer={})
    content |= dict(param_schedulers=[], message_hub={})
    torch.save(content, tmp_path / 'epoch_1.pth')
    out = tmp_path / 'out.pth'
    report = convert(tmp_path / 'epoch_1.pth', out, 'plugin', num_heads=2)
    left = 'Left out: message_hub, meta, optimizer, param_schedulers.'
    assert left in report
    assert 'Left out: nothing.' in convert(out, tmp_path / 'b.pth', 'plugin')
    torch.save(timm_vit().state_dict(), tmp_path / 'bare.pth')
    report = convert(
        tmp_path / 'bare.pth', tmp_path / 'c.pth', 'plugin', num_heads=HEADS
    )
    assert 'Left out: nothing.' in report


def test_slim_exports_do_not_contain_whole_storages(tmp_path):
    """Saving a view of a large tensor would save all of it."""
    vit = our_vit()
    state = {
        name: torch.stack([value] * 50)[0]
        for name, value in vit.state_dict().items()
    }
    torch.save(state, tmp_path / 'large.pth')
    convert(tmp_path / 'large.pth', tmp_path / 'a.pth', 'slim', num_heads=4)
    values = sum(x.numel() for x in state.values())
    assert (tmp_path / 'a.pth').stat().st_size < 4 * values + 50_000


def test_nothing_is_written_if_features_change(
    pretrained, tmp_path, monkeypatch
):
    file, _ = pretrained

    def swapped(state):
        """An error in a key map that keeps the shapes."""
        state = to_timm(state)
        one, two = 'blocks.0.norm1.weight', 'blocks.0.norm2.weight'
        state[one], state[two] = state[two], state[one]
        return state

    module = 'simim_plugin.checkpoint.export.to_timm'
    monkeypatch.setattr(module, swapped)
    with pytest.raises(CheckpointError, match='features would change: tokens'):
        convert(file, tmp_path / 'timm.pth', 'timm', num_heads=HEADS)
    assert [*tmp_path.iterdir()] == [file]


def test_heads_are_not_guessed(pretrained, tmp_path):
    file, _ = pretrained
    for heads in (None, 7):
        with pytest.raises(CheckpointError, match='pass --num-heads'):
            convert(file, tmp_path / 'a.pth', 'slim', num_heads=heads)
    assert [*tmp_path.iterdir()] == [file]


def test_heads_of_a_known_encoder(tmp_path):
    vit = our_vit(arch=MICRO.arch)
    torch.save(wrap(vit.state_dict(), 'backbone.'), tmp_path / 'micro.pth')
    report = convert(tmp_path / 'micro.pth', tmp_path / 'a.pth', 'slim')
    assert 'in the plugin (4 attention heads)' in report
    vit = our_vit(arch=dict(MICRO.arch, num_layers=2))
    torch.save(wrap(vit.state_dict(), 'backbone.'), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='pass --num-heads'):
        convert(tmp_path / 'other.pth', tmp_path / 'b.pth', 'slim')


def test_nothing_is_overwritten(pretrained, tmp_path):
    file, _ = pretrained
    with pytest.raises(CheckpointError, match='exists already'):
        convert(file, file, 'slim', num_heads=HEADS)


@pytest.mark.parametrize(
    ('name', 'to', 'fix'),
    [
        ('a.safetensors', 'slim', 'or choose --to timm'),
        ('a.safetensors', 'official', 'or choose --to timm'),
        ('a.onnx', 'plugin', 'or choose --to onnx'),
        ('a.safetensors', 'onnx', 'or choose --to timm'),
        ('a.pkl', 'plugin', r'such as \.pth'),
    ],
)
def test_endings_of_other_formats_are_refused(
    name, to, fix, pretrained, tmp_path
):
    file, _ = pretrained
    with pytest.raises(CheckpointError, match=fix):
        convert(file, tmp_path / name, to, num_heads=HEADS)
    assert not [*tmp_path.glob('a*')]


def test_missing_library_is_named(pretrained, tmp_path, monkeypatch):
    file, _ = pretrained
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(MissingDependency, match=r'timm.*pip install'):
        convert(file, tmp_path / 'a.pth', 'timm', num_heads=HEADS)


@pytest.mark.slow
def test_command(tuned, tmp_path):
    file, _ = tuned
    words = ['convert.py', file, tmp_path / 'new' / 'a.pth']
    words += ['--to', 'slim', '--num-heads', str(HEADS)]
    done = run_tool(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'Left out: epoch, head, optimizer.' in done.stdout
    state = torch.load(tmp_path / 'new' / 'a.pth', weights_only=True)
    assert state['state_dict']['backbone.cls_token'].shape == (1, 1, DIMS)
    done = run_tool(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('error: ')
    assert 'exists already' in done.stderr
