"""Checkpoints of runs are read with the options that they were trained with.

Some leave no trace in the tensors, and others look like another method.
"""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from simim_plugin.checkpoint import (
    CheckpointError,
    load_backbone,
    load_weights,
    read_weights,
)
from simim_plugin.checkpoint.export import convert
from simim_plugin.checkpoint.loading import load_model
from simim_plugin.checkpoint.portable import Portable
from simim_plugin.config_files import config_path
from simim_plugin.engine import SiameseIMRunner
from simim_plugin.models import SiameseIMViT

from .helpers import our_vit, scramble, wrap

QUICK = dict(act_cfg=dict(type='mmpretrain.QuickGELU'))
TANH = dict(act_cfg=dict(type='GELU', approximate='tanh'))
MICRO = dict(
    embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512
)
SHOWN = {
    'registers': dict(num_registers=4),
    'swiglu': dict(ffn_type='swiglu'),
    'scale': dict(layer_scale_init_value=1e-5),
    'pre-norm': dict(pre_norm=True),
    'bias': dict(relative_bias=True),
    'attn-norm': dict(attn_norm=True),
    'no cls token': dict(with_cls_token=False),
    'final norm': dict(final_norm=True),
}
UNTRACED = {
    'dinov3': dict(rotary='dinov3'),
    'default rotary': dict(rotary=True, absolute_positions=False),
    'eva02': dict(rotary='eva02', ffn_type='swiglu', pre_norm=True),
    'capi': dict(rotary='capi', num_registers=4),
    'eps': dict(norm_cfg=dict(type='LN', eps=1e-3), pre_norm=True),
    'rms': dict(norm_cfg=dict(type='RMSNorm')),
    'quick': dict(layer_cfgs=QUICK),
    'tanh': dict(layer_cfgs=TANH),
    'relu': dict(layer_cfgs=dict(act_cfg=dict(type='ReLU'))),
    'filtered': dict(interpolate_antialias=True),
    'heads': dict(
        arch=dict(
            embed_dims=128,
            num_layers=4,
            num_heads=8,
            feedforward_channels=512,
        )
    ),
    'norm without weights': dict(final_norm=True, final_norm_affine=False),
}


def pretraining(folder, options, with_config=True, **statistics):
    """Save a pretraining as a run does; return the file and its encoder."""
    config = Config.fromfile(config_path('siamese_im_vit-micro-p8_demo.py'))
    config.model.backbone.update(options)
    config.model.data_preprocessor.update(statistics)
    init_default_scope('mmpretrain')
    model = scramble(MODELS.build(config.model))
    content = dict(state_dict=model.state_dict(), meta=dict(epoch=1))
    if with_config:
        content['meta']['cfg'] = config.pretty_text
    torch.save(content, folder / 'epoch_1.pth')
    return folder / 'epoch_1.pth', model.backbone


@torch.no_grad()
def same(file, backbone, size=48):
    plain = Portable(read_weights(file))
    view = torch.randn(2, 3, size, size)
    difference = plain(view).tokens - backbone(view)[0]
    return difference.abs().max() < 1e-5


@pytest.mark.parametrize('name', SHOWN)
@pytest.mark.parametrize('with_config', [True, False])
def test_options_make_no_other_method(tmp_path, name, with_config):
    file, backbone = pretraining(tmp_path, SHOWN[name], with_config)
    family = read_weights(file).family
    assert (family.name, family.pool) == ('SiameseIM', 'mean')
    assert family.mean == pytest.approx((123.675, 116.28, 103.53))
    assert same(file, backbone)


@pytest.mark.parametrize('name', UNTRACED)
@pytest.mark.parametrize('to', [None, 'plugin', 'slim'])
def test_options_without_a_trace(tmp_path, name, to):
    file, backbone = pretraining(tmp_path, UNTRACED[name])
    if to is not None:
        convert(file, tmp_path / to, to)
        file = tmp_path / to
    assert read_weights(file).family.name == 'SiameseIM'
    assert same(file, backbone)
    if name == 'filtered':
        assert same(file, backbone, 80)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('heads', 'trained with 8 attention heads, .* has 4'),
        ('quick', 'with the activation quick_gelu, .* has gelu; .*QuickGELU'),
        ('tanh', 'with the activation gelu_pytorch_tanh, .* has gelu'),
        ('relu', 'with the activation relu, .* has gelu'),
    ],
)
def test_another_option_without_a_trace_is_refused(tmp_path, name, words):
    file, _ = pretraining(tmp_path, UNTRACED[name])
    options = read_weights(file).options()
    fits = SiameseIMViT(img_size=48, **options)
    load_backbone(fits, file)
    plain = SiameseIMViT(
        img_size=48, arch=MICRO, patch_size=options['patch_size']
    )
    with pytest.raises(CheckpointError, match=words):
        load_backbone(plain, file)
    model = MODELS.build(
        Config.fromfile(config_path('siamese_im_vit-micro-p8_demo.py')).model
    )
    for load in (load_model, load_weights):
        with pytest.raises(CheckpointError, match=words):
            load(model, file)


def test_an_activation_in_place_is_the_same(tmp_path):
    relu = dict(layer_cfgs=dict(act_cfg=dict(type='ReLU', inplace=True)))
    file, backbone = pretraining(tmp_path, relu)
    load_backbone(backbone, file)


def test_other_heads_than_a_file_states_are_refused(tmp_path):
    file, _ = pretraining(tmp_path, {})
    with pytest.raises(CheckpointError, match='states 4 attention heads, not'):
        read_weights(file).options(8)


def test_statistics_are_those_of_the_run(tmp_path):
    half = dict(mean=[127.5] * 3, std=[127.5] * 3)
    file, _ = pretraining(tmp_path, {}, **half)
    convert(file, tmp_path / 'slim.pth', 'slim')
    for found in (file, tmp_path / 'slim.pth'):
        family = read_weights(found).family
        assert (family.mean, family.std) == ((127.5,) * 3, (127.5,) * 3)
        assert (family.name, family.crop) == ('SiameseIM', 224 / 256)


@pytest.mark.parametrize(
    ('name', 'to'),
    [('quick', 'timm'), ('tanh', 'timm'), ('relu', 'timm'), ('tanh', 'onnx')],
)
def test_exports_to_other_libraries(tmp_path, name, to):
    file, _ = pretraining(tmp_path, UNTRACED[name])
    out = tmp_path / f'out.{"onnx" if to == "onnx" else "pth"}'
    assert 'differ by at most' in convert(file, out, to)


@DATASETS.register_module()
class LabelledNoise(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, k):
        sample = DataSample().set_gt_label(k % 2)
        return dict(inputs=torch.randn(3, 48, 48), data_samples=sample)


def classifier(folder, source, epochs, **options):
    """Train a classifier of noise with an encoder; return its file."""
    backbone = dict(
        type='SiameseIMViT',
        img_size=48,
        out_type='avg_featmap',
        pretrained=str(source),
        **read_weights(source).options(),
    )
    model = dict(
        type='ImageClassifier',
        backbone=backbone,
        head=dict(type='LinearClsHead', num_classes=2, in_channels=128),
        data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[4.0] * 3),
    )
    config = Config(
        dict(
            model=model,
            work_dir=str(folder),
            train_dataloader=dict(
                batch_size=2,
                dataset=dict(type='LabelledNoise'),
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            default_scope='mmpretrain',
            experiment_name=folder.name + str(epochs),
            **options,
        )
    )
    init_default_scope('mmpretrain')
    runner = SiameseIMRunner.from_cfg(config)
    runner.train()
    return folder / f'epoch_{epochs}.pth'


def test_a_fine_tuned_encoder_keeps_its_family(tmp_path):
    """Registers would make it a DeiT."""
    source, _ = pretraining(tmp_path, dict(num_registers=4, rotary='dinov3'))
    first = classifier(tmp_path / 'run', source, 1)
    again = classifier(
        tmp_path / 'run',
        source,
        2,
        resume=True,
        load_from=str(first),
        extend=True,
    )
    for file in (first, again):
        weights = read_weights(file)
        family = weights.family
        assert (family.name, family.pool) == ('SiameseIM', 'mean')
        assert (family.mean, family.std) == ((1.0, 2.0, 3.0), (4.0,) * 3)
        assert weights.options()['rotary'] == 'dinov3'
        config = dict(weights.options(), rotary=None)
        with pytest.raises(CheckpointError, match="needs rotary='dinov3'"):
            load_backbone(SiameseIMViT(img_size=48, **config), file)


def test_a_detector_without_a_cls_token_is_no_i_jepa(tmp_path):
    state = our_vit(with_cls_token=False).state_dict()
    state['layers.0.attn.rel_pos_h'] = torch.zeros(7, 16)
    torch.save(wrap(state, 'backbone.'), tmp_path / 'iter_9.pth')
    assert read_weights(tmp_path / 'iter_9.pth').family.name == 'SiameseIM'


def test_the_target_alone_keeps_its_options(tmp_path):
    file, _ = pretraining(tmp_path, UNTRACED['quick'])
    weights = read_weights(file, 'target')
    torch.save(weights.encoder_file(), tmp_path / 'target.pth')
    again = read_weights(tmp_path / 'target.pth')
    assert again.options() == weights.options()
    assert again.family == weights.family
    assert again.grid == (6, 6)


@pytest.mark.parametrize(
    'text',
    [
        *('model = 1', 'x', 'model = dict(backbone={[1]})', '\0', 7),
        "model = dict(backbone=dict(type='SiameseIMViT', patch_size=0))",
    ],
)
def test_a_text_that_is_no_config_states_nothing(tmp_path, text):
    file, backbone = pretraining(tmp_path, {})
    content = torch.load(file)
    content['meta']['cfg'] = text
    torch.save(content, file)
    assert same(file, backbone)
