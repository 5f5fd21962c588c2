# UPerNet on the demo's generated scenes. Our recipe.
_base_ = [
    '../_base_/segmentation_ade20k.py',
    '../_base_/vit_micro.py',
    '../_base_/runtime.py',
]

crop_size = (64, 64)
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        type='SiameseIMSegViT', img_size=crop_size, patch_size=8,
        arch=_base_.micro, out_indices=(0, 1, 2, 3), pretrained=None),
    neck=dict(type='Feature2Pyramid', embed_dim=128,
              rescales=[4, 2, 1, 0.5], norm_cfg=norm_cfg),
    decode_head=dict(
        type='UPerHead', num_classes=14,
        in_channels=[128, 128, 128, 128], in_index=[0, 1, 2, 3],
        pool_scales=(1, 2), channels=64, dropout_ratio=0.1,
        norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    auxiliary_head=dict(
        type='FCNHead', num_classes=14, in_channels=128, in_index=2,
        channels=64, num_convs=1, concat_input=False, dropout_ratio=0.1,
        norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)),
    test_cfg=dict(crop_size=crop_size, stride=(42, 42)))
sync_bn = 'torch'
train_pipeline = [
    _base_.load,
    _base_.load_labels,
    dict(type='RandomResize', scale=(256, 64), ratio_range=(1.0, 2.0),
         keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=(256, 64), keep_ratio=True),
    _base_.load_labels,
    _base_.pack,
]
scenes = dict(
    type='CheckedSegDataset', data_root='data/demo', reduce_zero_label=True,
    metainfo=dict(classes=(
        'ball', 'box', 'starfish', 'wheel', 'tent', 'blossom', 'windmill',
        'moon', 'sand', 'water', 'tiles', 'grass', 'wood', 'sky')))
train_dataloader = dict(
    batch_size=16, num_workers=1,
    dataset=dict(
        scenes, pipeline=train_pipeline,
        data_prefix=dict(img_path='train', seg_map_path='label_maps/train')))
test_dataloader = dict(
    _base_.test_dataloader, num_workers=1,
    dataset=dict(
        scenes, pipeline=test_pipeline,
        data_prefix=dict(img_path='val', seg_map_path='label_maps/val')))
val_dataloader = test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict(type='ValLoop')
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    constructor='LayerDecayConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999),
                   weight_decay=0.05, fused=True),
    paramwise_cfg=dict(layer_decay_rate=0.75, flat_decay_mult=0.0))
auto_scale_lr = dict(base_batch_size=16, enable=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False,
         begin=0, end=20),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False,
         begin=20, end=200),
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=200, val_interval=200)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=200))
