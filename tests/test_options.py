"""--cfg-options: folders as they are typed, other values as in MMEngine."""

import argparse

import numpy as np
import pytest
import torch
from mmengine.config import Config

from simim_plugin.commands import ablate, demo, evaluate, test, train
from simim_plugin.commands.options import add_options, merge
from simim_plugin.commands.test import plain_numbers
from simim_plugin.errors import SimimError

FOLDERS = [
    '/data/my photos',
    '/data/a, b',
    '/data/a,b',
    '/data/[old] (2)',
    '/data/(2)',
    '[1]',
    '123',
    '1e5',
    'True',
    "it's",
    '"quoted"',
    r'C:\Users\me\new',
    '~/photos',
    '/data/key=value',
    '/daten/für Übungen/日本',
    ' leading',
]
SETTINGS = """
train_dataloader = dict(batch_size=4, dataset=dict(
    data_root='data/x', data_prefix=dict(img=None), pipeline=[
        dict(type='A', scale=(1, 2)), dict(type='B', words='one')]))
model = dict(backbone=dict(arch='tiny', pretrained=None, out_indices=[1]))
load_from = None
"""


def overridden(*words) -> Config:
    parser = argparse.ArgumentParser()
    add_options(parser, 'help')
    config = Config.fromstring(SETTINGS, '.py')
    merge(config, parser.parse_args(['--cfg-options', *words]).cfg_options)
    return config


@pytest.mark.parametrize('folder', FOLDERS)
def test_folders_are_taken_as_typed(folder):
    config = overridden(
        f'train_dataloader.dataset.data_root={folder}',
        f'train_dataloader.dataset.data_prefix.img={folder}',
        f'train_dataloader.dataset.pipeline.1.words={folder}',
        f'val_dataloader.dataset.ann_file={folder}',
        f'model.backbone.pretrained={folder}',
        f'load_from={folder}',
    )
    dataset = config.train_dataloader.dataset
    assert dataset.data_root == folder
    assert dataset.data_prefix.img == folder
    assert dataset.pipeline[1].words == folder
    assert config.val_dataloader.dataset.ann_file == folder
    assert config.model.backbone.pretrained == folder
    assert config.load_from == folder


@pytest.mark.parametrize(
    ('word', 'value'),
    [
        ('train_dataloader.batch_size=8', 8),
        ('optim_wrapper.optimizer.lr=1e-3', 1e-3),
        ('model.backbone.out_indices=3,5', [3, 5]),
        ('model.backbone.out_indices=[3, 5]', [3, 5]),
        ('train_dataloader.dataset.pipeline.0.scale=(2, 3)', (2, 3)),
        ('model.backbone.arch=None', None),
        ('model.new=True', True),
        ('default_hooks.checkpoint.interval=3', 3),
        ('train_cfg.val_interval=3', 3),
        ('model.new=a b', 'a b'),
        ('model.new=[a,b]', ['a', 'b']),
    ],
)
def test_other_values_are_read(word, value):
    config = overridden(word)
    for name in word.partition('=')[0].split('.'):
        config = config[int(name)] if name.isdigit() else config[name]
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('512', 512),
        ('512.0', 512.0),
        ('dynamic', 'dynamic'),
        ('-1', '-1'),  # the check refuses either
        ('other', 'other'),
    ],
)
def test_a_number_takes_the_place_of_a_word(text, value):
    config = Config(
        dict(
            default_scope='mmpretrain',
            optim_wrapper=dict(
                type='AmpOptimWrapper',
                loss_scale='dynamic',
                optimizer=dict(type='AdamW', lr=1.0),
            ),
        )
    )
    merge(config, {'optim_wrapper.loss_scale': text})
    assert config.optim_wrapper.loss_scale == value
    assert type(config.optim_wrapper.loss_scale) is type(value)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('(0,99)', (0, 99)),
        ('percentiles', 'percentiles'),
        ('(99,0)', '(99,0)'),
    ],
)
def test_a_pair_takes_the_place_of_a_word(text, value):
    load = dict(type='LoadRGBImage', window='percentiles')
    dataset = dict(type='ImageFolder', data_root='a', pipeline=[load])
    config = Config(
        dict(
            default_scope='mmpretrain',
            train_dataloader=dict(dataset=dataset),
        )
    )
    key = 'train_dataloader.dataset.pipeline.0.window'
    merge(config, {key: text})
    assert config.train_dataloader.dataset.pipeline[0].window == value


@pytest.mark.parametrize(
    ('key', 'words'),
    [
        ('items.x', 'no item of items, a list of 2; write items.0.x'),
        ('items.2.x', 'no item of items, a list of 2; write items.0.x'),
        ('items.-1.x', 'no item of items, a list of 2; write items.0.x'),
        ('none.x', 'a list of 0; set none itself'),
        ('part.items.x', 'no item of part.items, .*; write part.items.0.x'),
    ],
)
def test_a_key_that_names_no_item_of_a_list(key, words):
    items = [dict(x=1), dict(x=2)]
    config = Config(dict(items=items, none=[], part=dict(items=items)))
    with pytest.raises(SimimError, match=words):
        merge(config, {key: '3'})
    merge(config, {'items.1.x': '3'})
    assert config['items'][1].x == 3


def test_a_word_without_a_value():
    with pytest.raises(SimimError, match="'photos' is none; quote a value"):
        overridden('train_dataloader.dataset.data_root=/my', 'photos')


def test_every_command_keeps_the_words(tmp_path):
    """Some pass them on to another command, which reads them."""
    word = 'train_dataloader.dataset.data_root=/data/a, b [1]'
    key, _, value = word.partition('=')
    options = ['--cfg-options', word]
    for command, words in (
        (train, ['x.py']),
        (test, ['x.py', 'y.pth']),
        (evaluate, ['x.pth']),
    ):
        assert command.parse_args([*words, *options]).cfg_options == {
            key: value
        }
    data = ['a', '--data', str(tmp_path)]
    for command, words in ((ablate, data), (demo, [])):
        assert command.parse_args([*words, *options]).cfg_options == [word]


def test_metrics_of_every_kind_become_plain():
    metrics = dict(
        one=np.float32(0.5),
        none=float('nan'),
        classes=torch.tensor([0.25, float('inf')]),
        table=np.eye(2),
        nested=[1, (torch.tensor(2),)],
    )
    assert plain_numbers(metrics) == dict(
        one=0.5,
        none=None,
        classes=[0.25, None],
        table=[[1, 0], [0, 1]],
        nested=[1, [2]],
    )
