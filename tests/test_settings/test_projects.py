"""Configs of other projects: parts of ours with parts of the libraries."""

import pytest
from mmengine.config import Config
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS

import simim_plugin.evaluation  # noqa: F401
from simim_plugin.errors import SimimError
from simim_plugin.models import SiameseIM
from simim_plugin.settings import apply_img_size, check_settings

from .test_wrong_settings import NAMES, config_of

BGR = dict(type='LoadImageFromFile')
STOCK_VIT = dict(
    type='VisionTransformer',
    arch=dict(
        embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512
    ),
    img_size=48,
    patch_size=8,
    out_type='raw',
    _delete_=True,
)


def findings(task: str, **changes: object) -> list[str]:
    """Check a packaged config that a file of a user inherits."""
    inherited = config_of(NAMES[task]).to_dict()
    text = config_of(NAMES[task]).text
    merged = Config._merge_a_into_b(changes, inherited)
    return check_settings(Config(merged), text)


def steps_of(task: str) -> list[dict]:
    pipeline = config_of(NAMES[task]).train_dataloader.dataset.pipeline
    return [step.to_dict() for step in pipeline]


def with_steps(*steps: dict) -> dict:
    return dict(dataset=dict(pipeline=list(steps)))


# Necks of mmseg and mmdet have widths and levels of their own.
NECKS = {
    'MultiLevelNeck': dict(
        neck=dict(
            type='MultiLevelNeck',
            in_channels=[128] * 4,
            out_channels=64,
            _delete_=True,
        ),
        decode_head=dict(in_channels=[64] * 4),
        auxiliary_head=dict(in_channels=64),
    ),
    'five levels': dict(
        neck=dict(
            type='MultiLevelNeck',
            in_channels=[128] * 4,
            out_channels=64,
            scales=[4, 2, 1, 0.5, 0.25],
            _delete_=True,
        ),
        decode_head=dict(in_channels=[64] * 5, in_index=[0, 1, 2, 3, 4]),
        auxiliary_head=dict(in_channels=64, in_index=4),
    ),
}


@pytest.mark.parametrize('changes', NECKS.values(), ids=NECKS)
def test_a_neck_of_mmseg_sets_widths_and_levels(changes):
    assert findings('upernet', model=changes) == []


def test_each_auxiliary_head_of_a_list_is_compared():
    head = config_of(NAMES['upernet']).model.auxiliary_head.to_dict()
    heads = [head, dict(head, in_channels=64, num_classes=3, in_index=7)]
    model = dict(auxiliary_head=heads)
    with pytest.raises(SimimError) as error:
        findings('upernet', model=model)
    for words in ('in_channels is 64', 'num_classes is 3', 'in_index is 7'):
        assert f'model.auxiliary_head.1.{words}' in str(error.value)
    assert findings('upernet', model=dict(auxiliary_head=[head] * 2)) == []


HEADS = {
    'dynamic': dict(
        roi_head=dict(type='DynamicRoIHead'),
        train_cfg=dict(rcnn=dict(dynamic_rcnn=dict(iou_topk=75))),
    ),
    'points': dict(
        roi_head=dict(type='PointRendRoIHead'),
        test_cfg=dict(rcnn=dict(subdivision_steps=5)),
    ),
}


@pytest.mark.parametrize('changes', HEADS.values(), ids=HEADS)
def test_other_heads_of_mmdet_read_keys_of_their_own(changes):
    assert not any(
        'Nothing reads' in w for w in findings('detection', model=changes)
    )


def test_an_inherited_argument_of_another_class_is_deleted():
    """Removing it from one's own file is not possible: it is inherited."""
    other = dict(type='SGD', lr=0.1, momentum=0.9)
    with pytest.raises(
        SimimError, match=r'betas .*set optim_wrapper.optimizer._delete_=True'
    ):
        findings('pretraining', optim_wrapper=dict(optimizer=other))
    other['_delete_'] = True
    assert not findings('pretraining', optim_wrapper=dict(optimizer=other))


# Task, changes and words of settings that swap red and blue
SWAPPED = {
    'views': (
        'pretraining',
        dict(train_dataloader=with_steps(BGR, *steps_of('pretraining')[1:])),
        r"pipeline.1 changes colours as RGB, .*type='LoadRGBImage'",
    ),
    'to_rgb': (
        'pretraining',
        dict(model=dict(data_preprocessor=dict(to_rgb=True))),
        'images of train_.*pipeline.0 have blue first; .*to_rgb to False',
    ),
    'to_rgb of a classifier': (
        'tuning',
        dict(model=dict(data_preprocessor=dict(to_rgb=True))),
        'with to_rgb=True .* set model.data_preprocessor.to_rgb to False',
    ),
    'loader of a classifier': (
        'tuning',
        dict(train_dataloader=with_steps(BGR, *steps_of('tuning')[1:])),
        'with to_rgb=False .* set model.data_preprocessor.to_rgb to True',
    ),
    'bgr_to_rgb': (
        'detection',
        dict(model=dict(data_preprocessor=dict(bgr_to_rgb=False))),
        'set model.data_preprocessor.bgr_to_rgb to True',
    ),
}


@pytest.mark.parametrize(
    ('task', 'changes', 'words'), SWAPPED.values(), ids=SWAPPED
)
def test_red_and_blue_are_not_swapped(task, changes, words):
    with pytest.raises(SimimError, match=words):
        findings(task, **changes)


def test_images_of_mmcv_are_read_by_a_classifier_that_swaps_them():
    load = [
        BGR,
        dict(type='RandomResizedCrop', scale=64),
        steps_of('tuning')[-1],
    ]
    assert not findings(
        'tuning',
        train_dataloader=with_steps(*load),
        val_dataloader=with_steps(*load),
        test_dataloader=with_steps(*load),
        model=dict(data_preprocessor=dict(to_rgb=True)),
    )


def test_the_encoder_of_siamese_im_takes_visible_patches():
    with pytest.raises(SimimError, match='backbone is a VisionTransformer, '):
        findings('pretraining', model=dict(backbone=STOCK_VIT))

    @MODELS.register_module(force=True)
    class OfVisiblePatches(VisionTransformer):
        def forward(self, images, visible=None):
            return super().forward(images)

    @MODELS.register_module(force=True)
    class OtherSiameseIM(SiameseIM):
        def loss(self, inputs, data_samples):
            return dict(loss=self.backbone(inputs[0])[0].mean())

    own = dict(STOCK_VIT, type='OfVisiblePatches')
    assert not findings('pretraining', model=dict(backbone=own))
    other = dict(type='OtherSiameseIM', backbone=STOCK_VIT)
    assert not findings('pretraining', model=other)


def test_a_pretraining_cannot_be_validated():
    loader = config_of(NAMES['pretraining']).train_dataloader.to_dict()
    loader.update(sampler=dict(type='DefaultSampler'), drop_last=False)
    with pytest.raises(SimimError, match='val_cfg is set, and SiameseIM pre'):
        findings(
            'pretraining',
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=dict(type='Accuracy'),
        )


def test_a_preprocessor_beside_that_of_the_model_is_a_warning():
    (warning,) = findings('tuning', data_preprocessor=dict(num_classes=9))
    assert 'data_preprocessor.num_classes, since the model has' in warning


IN_PYTHON = """\
from mmengine.dataset import default_collate
from mmpretrain.datasets import PackInputs
from torch.optim import AdamW

from simim_plugin.datasets import (
    BlockwiseMask,
    ImageFolder,
    LoadRGBImage,
    PairedViews,
)
from simim_plugin.engine import (
    AutocastOptimWrapper,
    ExactEpochLoop,
    MomentumHook,
    SeededSampler,
    WarmupCosineLR,
)
from simim_plugin.models import (
    PairDataPreprocessor,
    RelativePositionDecoder,
    SiameseIM,
    SiameseIMViT,
    TransformerProjector,
    UniGradHead,
)

runner_type = 'SiameseIMRunner'
default_scope = 'mmpretrain'
model = dict(
    type=SiameseIM,
    data_preprocessor=dict(
        type=PairDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375]),
    backbone=dict(
        type=SiameseIMViT, arch='tiny', img_size=64, patch_size=8),
    projector=dict(
        type=TransformerProjector, in_dims=192, embed_dims=192, num_heads=4),
    neck=dict(
        type=RelativePositionDecoder,
        grid=(8, 8), embed_dims=192, depth=1, num_heads=4),
    head=dict(type=UniGradHead, negative_weight=0.08))
train_pipeline = [
    dict(type=LoadRGBImage),
    dict(type=PairedViews, size=64),
    dict(type=BlockwiseMask, grid=(8, 8), num_masked=38, min_block=4),
    dict(type=PackInputs, algorithm_keys=['geometry'])]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type=SeededSampler, shuffle=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=ImageFolder, data_root='data', pipeline=train_pipeline))
train_cfg = dict(type=ExactEpochLoop, max_epochs=2)
optim_wrapper = dict(
    type=AutocastOptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
param_scheduler = dict(type=WarmupCosineLR, warmup=1)
custom_hooks = [dict(type=MomentumHook)]
"""


def test_a_python_config_names_classes(tmp_path):
    """Its types are classes, and one number sets all sizes as well."""
    file = tmp_path / 'mine.py'
    for lines, side in (('', 8), ('img_size = 32\n', 4)):
        file.write_text(IN_PYTHON + lines)
        config = Config.fromfile(file)
        apply_img_size(config)
        assert check_settings(config, config.text) == []
        _, views, mask, _ = config.train_dataloader.dataset.pipeline
        assert views['size'] == 8 * side
        assert config.model.neck.grid == mask['grid'] == (side, side)
        assert mask['num_masked'] == {8: 38, 4: 10}[side]
