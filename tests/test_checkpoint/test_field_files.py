"""Files as other trainers write them: entries, prefixes, other content."""

import argparse
import datetime
import enum
import functools
import os
import pathlib
import re
import types
from collections import defaultdict, deque

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import checkpoint
from mmpretrain.registry import MODELS

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    load_weights,
    read_checkpoint,
    read_weights,
)
from simim_plugin.checkpoint.export import convert
from simim_plugin.commands import convert as command

from .helpers import (
    DEPTH,
    DIMS,
    HEADS,
    Call,
    hugging_face_vit,
    images,
    our_vit,
    timm_vit,
    wrap,
)

# Entries of the same file; the first is taken.
BOTH = [
    ('state_dict', 'state_dict_ema'),  # timm
    ('model', 'model_ema'),  # DeiT
    ('model', 'ema'),
    ('state_dict', 'ema_state_dict'),  # MMEngine: the average, the other
]


def taken(file, **options) -> torch.Tensor:
    """Load an encoder and return its cls token."""
    encoder = our_vit()
    load_backbone(encoder, file, **options)
    return encoder.cls_token.detach()


def test_each_entry_alone(tmp_path):
    state = timm_vit().state_dict()
    for entry in ('module', 'model_state_dict', *sum(BOTH, ())):
        torch.save({entry: state, 'epoch': 3}, tmp_path / 'file.pth')
        assert torch.equal(taken(tmp_path / 'file.pth'), state['cls_token'])


def test_entries_of_other_names(tmp_path):
    file = tmp_path / 'file.pth'
    first, second = (timm_vit(seed=n).state_dict() for n in (0, 1))
    count = {'n_averaged': torch.tensor(3)}
    rest = dict(optimizer={'state': {0: {'exp_avg': torch.ones(2)}}})
    for content in (
        dict(net=first),
        dict(checkpoint=dict(state_dict=wrap(first, 'module.'))),
        dict(state_dict=dict(model=first), epoch=torch.tensor(3)),
        dict(state_dict=wrap(first, 'module.') | count),
        dict(weights=wrap(first, 'encoder.') | {'head.w': torch.ones(2)}),
    ):
        torch.save(content | rest, file)
        assert torch.equal(taken(file), first['cls_token'])
    torch.save(dict(best=first, last=second) | rest, file)
    with pytest.raises(CheckpointError, match=r'2 encoders.* best, last; cho'):
        taken(file)
    assert torch.equal(taken(file, entry='last'), second['cls_token'])
    other = {'steps': torch.tensor(1)} | wrap(second, 'module.')
    torch.save(dict(state_dict=first, ema_state_dict=other), file)
    found = taken(file, entry='ema_state_dict')
    assert torch.equal(found, second['cls_token'])


@pytest.mark.parametrize(('name', 'other'), BOTH, ids='+'.join)
def test_the_first_of_two_entries(tmp_path, logged, name, other):
    file = tmp_path / 'file.pth'
    first, second = (timm_vit(seed=n).state_dict() for n in (0, 1))
    torch.save({other: second, name: first}, file)
    assert torch.equal(taken(file), first['cls_token'])
    assert f'entry {name}, not {other} (entry=NAME chooses)' in logged[-1]
    assert torch.equal(taken(file, entry=other), second['cls_token'])
    assert f'entry {other}, not {name}' in logged[-1]
    with pytest.raises(CheckpointError, match=f"'swa', but {name}"):
        taken(file, entry='swa')
    report = convert(file, tmp_path / 'timm.pth', 'timm', num_heads=4)
    assert f'From entry {name}, not {other}' in report
    options = ['--to', 'timm', '--num-heads', '4', '--entry', other]
    command.main([str(file), str(tmp_path / 'other.pth'), *options])
    written = read_checkpoint(tmp_path / 'other.pth')
    assert torch.equal(written['cls_token'], second['cls_token'])


@pytest.mark.parametrize(
    'prefix',
    [
        'module.',
        '_orig_mod.',
        'module._orig_mod.',
        '_orig_mod.module.',
        'model.',
        'backbone.',
        'encoder.',
        'student.',
        'student_backbone.',
        'model.student.backbone.',
        'net.module.vit.',
        '_fsdp_wrapped_module.',
    ],
)
@pytest.mark.parametrize('form', ['timm', 'ours', 'hugging face'])
def test_prefixes_are_found(tmp_path, logged, prefix, form):
    vit = dict(ours=our_vit, timm=timm_vit).get(form, hugging_face_vit)()
    state = vit.state_dict()
    name = next(name for name in state if name.endswith('cls_token'))
    state = {n: x for n, x in state.items() if not n.startswith('pooler')}
    inside = wrap(state, prefix)
    if {*prefix.split('.')} & {'model', 'encoder', 'net'}:
        content = inside | {'criterion.center': torch.ones(3)}
        torch.save(dict(state_dict=content), tmp_path / 'file.pth')
        assert torch.equal(taken(tmp_path / 'file.pth'), state[name])
        assert 'dropped: ' in logged[-1]
        assert 'outside 1' in logged[-1]
    compiled = {
        n.replace('.0.', '.0._orig_mod.'): x for n, x in inside.items()
    }
    torch.save(compiled, tmp_path / 'file.pth')
    assert torch.equal(taken(tmp_path / 'file.pth'), state[name])


@pytest.mark.parametrize(
    ('online', 'target'),
    [
        ('student_backbone.', 'teacher_backbone.'),
        ('encoder.', 'momentum_encoder.'),
        ('model.encoder.', 'model.target_encoder.'),
        ('encoder_q.', 'encoder_k.'),
        ('online.', 'ema.'),
    ],
)
def test_two_encoders(tmp_path, online, target):
    file = tmp_path / 'file.pth'
    states = [timm_vit(seed=seed).state_dict() for seed in (0, 1)]
    torch.save(wrap(states[0], online) | wrap(states[1], target), file)
    for branch, state in zip(('online', 'target'), states, strict=True):
        assert torch.equal(taken(file, branch=branch), state['cls_token'])
    assert torch.equal(
        taken(file, entry=target.rstrip('.')), states[1]['cls_token']
    )


def test_encoders_without_a_known_role(tmp_path):
    file = tmp_path / 'file.pth'
    states = [timm_vit(seed=seed).state_dict() for seed in (0, 1)]
    torch.save(wrap(states[0], 'left.') | wrap(states[1], 'right.'), file)
    with pytest.raises(CheckpointError, match=r'2 encoders.*left\., right\.'):
        taken(file)
    found = taken(file, entry='right')
    assert torch.equal(found, states[1]['cls_token'])


def test_other_content_is_left(tmp_path):
    file = tmp_path / 'file.pth'
    state = timm_vit().state_dict()
    content = dict(
        model=state,
        args=argparse.Namespace(out=pathlib.Path('/x'), kind=float),
        folder=pathlib.PurePosixPath('a/b'),
        started=datetime.datetime(2026, 1, 1),
        counts=defaultdict(list, {'a': [1]}),
        hyper_parameters=types.SimpleNamespace(
            norm=functools.partial(torch.nn.LayerNorm, eps=1e-6),
            act=torch.nn.GELU,
            last=deque([1.0], maxlen=3),
        ),
        hooks={pathlib.Path('/y'): [datetime.timedelta(3)]},
    )
    for protocol in (2, 4, 5):
        for new in (True, False):
            torch.save(
                content,
                file,
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=new,
            )
            assert torch.equal(taken(file), state['cls_token'])
    found = read_checkpoint(file)
    torch.save(found, file)  # needs nothing of this package
    assert b'simim_plugin' not in file.read_bytes()
    assert read_weights(file).form.name == 'timm'


class Settings:
    """A user's own class, whose methods write a witness."""

    class Inner(enum.Enum):
        first = 1

    def __init__(self, witness, **values):
        self.witness, self.values = witness, values

    def __setstate__(self, state):
        open(state['witness'], 'w').close()
        vars(self).update(state)

    def __repr__(self):
        open(self.witness, 'w').close()
        return 'settings'


class Named(dict):
    """A user's own dict."""


def restored(witness):
    """Return settings when a plain reader calls it."""
    open(witness, 'w').close()
    return Settings(witness)


@pytest.mark.parametrize('protocol', range(2, 6))
def test_objects_of_unknown_classes_are_left(tmp_path, protocol):
    witness, file = str(tmp_path / 'witness'), tmp_path / 'file.pth'
    state = timm_vit().state_dict()
    settings = Settings(witness, inner=Settings.Inner.first, loss=wrap)
    content = dict(
        state_dict=wrap(state, 'model.'),
        hyper_parameters=Named(
            settings=settings,
            criterion=torch.nn.CrossEntropyLoss(torch.ones(2)),
            optimizer=torch.optim.AdamW,
            called=Call(restored, witness),
            method=settings.__repr__,
            kinds={Settings.Inner.first: re.compile('x'), Settings: 1},
        ),
        note=Named(ours=1),
    )
    for new in (True, False):
        torch.save(
            content,
            file,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=new,
        )
        assert torch.equal(taken(file), state['cls_token'])
    found = read_checkpoint(file)
    torch.save(found, file)
    again = torch.load(file, weights_only=False)
    name = f'<{Named.__module__}.Named>'
    assert again['hyper_parameters'] == again['note'] == name
    assert not os.path.exists(witness)
    torch.save(content, file)
    torch.load(file, weights_only=False)
    assert os.path.exists(witness)  # a plain reader runs them


def test_weights_inside_objects_are_refused(tmp_path):
    file = tmp_path / 'file.pth'
    vit = timm_vit()
    state = vit.state_dict()
    saves = r'holds an object of .*; save its state_dict\(\)'
    for content in (
        vit,
        Named(state),
        dict(model=vit, optimizer={'state': {0: torch.ones(2)}}),
        dict(state_dict=Named(state), epoch=1),
        dict(net=dict(encoder=vit)),
    ):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=saves) as error:
            taken(file)
        assert '\n' not in str(error.value)
        with pytest.raises(CheckpointError, match=saves):
            checkpoint.CheckpointLoader.load_checkpoint(str(file))
            taken(file)
    torch.save(dict(model=vit, ema=state), file)
    assert torch.equal(taken(file), state['cls_token'])
    assert read_weights(file).choice.startswith('entry ema, not model')
    with pytest.raises(CheckpointError, match=saves):
        taken(file, entry='model')


LORA = """
_base_ = __import__('simim_plugin').config_path(
    'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py')
model = dict(backbone=dict(
    _delete_=True, type='mmpretrain.LoRAModel', alpha=8, rank=4,
    targets=[dict(type='qkv'), dict(type='.*proj')],
    module=dict(
        type='SiameseIMViT', arch={arch}, img_size=32, patch_size=8,
        out_type='avg_featmap', pretrained={file!r})),
    head=dict(in_channels={width}))
"""


def test_adapters_are_tested_and_exported(tmp_path):
    base, trained = tmp_path / 'base.pth', tmp_path / 'trained.pth'
    torch.save(wrap(our_vit().state_dict(), 'backbone.'), base)
    arch = dict(
        embed_dims=DIMS,
        num_layers=DEPTH,
        num_heads=HEADS,
        feedforward_channels=4 * DIMS,
    )
    config = tmp_path / 'lora.py'
    config.write_text(LORA.format(arch=arch, file=str(base), width=DIMS))
    settings = Config.fromfile(config).model
    model = MODELS.build(settings)
    scramble_adapters(model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), trained)
    other = MODELS.build(settings)
    load_weights(other, trained)
    pictures = images()
    with torch.no_grad():
        expected = model.eval()(pictures)
        assert torch.equal(other.eval()(pictures), expected)
    out = tmp_path / 'merged.pth'
    words = [str(trained), str(out), '--to', 'plugin', '--num-heads', '4']
    with pytest.raises(SystemExit):
        command.main(words)
    command.main([*words, '--config', str(config)])
    plain = our_vit(out_type='avg_featmap')
    load_backbone(plain, out)
    family = read_weights(out).family
    assert (family.name, family.pool) == ('SiameseIM', 'mean')
    assert family.mean == tuple(settings.data_preprocessor.mean)
    with torch.no_grad():
        found = plain.eval()(pictures)[0]
        features = model.backbone(pictures)[0]
    torch.testing.assert_close(found, features)
    for name in ('rank', 'alpha'):
        changed = Config.fromfile(config)
        changed.model.backbone[name] = 2
        torch.save(
            dict(
                state_dict=model.state_dict(),
                meta=dict(cfg=Config.fromfile(config).pretty_text),
            ),
            trained,
        )
        load_weights(MODELS.build(settings), trained)
        with pytest.raises(CheckpointError, match=f'set {name}'):
            load_weights(MODELS.build(changed.model), trained)
    del settings.backbone.module['pretrained']
    with pytest.raises(CheckpointError, match='without their encoder'):
        load_weights(MODELS.build(settings), trained)


def scramble_adapters(model):
    """LoRA starts with a zero matrix, which has no effect."""
    for name, parameter in model.named_parameters():
        if '.lora_' in name:
            torch.nn.init.normal_(parameter, std=0.1)
