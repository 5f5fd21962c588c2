# The demo's generated scenes with COCO annotations, at 64 px: minutes on one
# CPU core. Our recipe.
_base_ = [
    '../_base_/detection_vitdet.py',
    '../_base_/vit_micro.py',
    '../_base_/runtime.py',
]

# Model; patches, strides and objects are smaller than usual
strides = [2, 4, 8, 16, 32]
extractor = dict(
    out_channels=64, featmap_strides=strides[:4], finest_scale=14)
model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(
        arch=dict(
            _base_.micro, _delete_=True, global_attn_indexes=[1, 3]),
        img_size=64, patch_size=8, pretrain_img_size=48, window_size=4,
        drop_path_rate=0.0),
    neck=dict(in_channels=128, out_channels=64),
    rpn_head=dict(
        in_channels=64, feat_channels=64,
        anchor_generator=dict(scales=[4], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        bbox_head=dict(
            in_channels=64, conv_out_channels=32, fc_out_channels=256,
            num_classes=8),
        mask_roi_extractor=extractor,
        mask_head=dict(
            in_channels=64, conv_out_channels=32, num_classes=8)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)))

# Data
scale = (64, 64)
train_pipeline = [
    _base_.load,
    _base_.annotate,
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 1.5),
         keep_ratio=True, resize_type='Resize', backend='pillow'),
    dict(type='RandomCrop', crop_size=scale, crop_type='absolute',
         recompute_bbox=True, allow_negative_crop=True),
    _base_.drop_empty_boxes,
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=scale, keep_ratio=True, backend='pillow'),
    _base_.annotate,
    _base_.pack_with_objects,
]
data_root = 'data/demo/'
classes = ['ball', 'box', 'starfish', 'wheel', 'tent', 'blossom', 'windmill',
           'moon']
train_dataloader = dict(
    batch_size=4, num_workers=1,
    dataset=dict(
        data_root=data_root, metainfo=dict(classes=classes),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img=''), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8, num_workers=1,
    dataset=dict(
        data_root=data_root, metainfo=dict(classes=classes),
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img=''), pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

# Optimisation
train_cfg = dict(max_iters=1000, val_interval=1000)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=50),
    dict(type='MultiStepLR', milestones=[889, 963], by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=1000))
