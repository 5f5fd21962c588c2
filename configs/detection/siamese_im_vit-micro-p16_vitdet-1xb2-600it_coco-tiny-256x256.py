# A handful of COCO photographs, at 256 px: does everything fit together? Ours.
_base_ = './siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py'

# Model
strides = [4, 8, 16, 32, 64]
extractor = dict(featmap_strides=strides[:4], finest_scale=28)
model = dict(
    data_preprocessor=dict(pad_size_divisor=256),
    backbone=dict(
        img_size=256, patch_size=16, pretrain_img_size=224, window_size=8),
    rpn_head=dict(anchor_generator=dict(strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        bbox_head=dict(num_classes=80),
        mask_roi_extractor=extractor,
        mask_head=dict(num_classes=80)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)), rcnn=dict(sampler=dict(num=64))))

# Data: the annotations and images of COCO, of which a few will do
scale = (256, 256)
train_pipeline = [
    _base_.load,
    _base_.annotate,
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.25),
         keep_ratio=True, resize_type='Resize', backend='pillow'),
    dict(type='RandomCrop', crop_size=scale, crop_type='absolute',
         recompute_bbox=True, allow_negative_crop=True),
    *_base_.train_pipeline[-2:],
]
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=scale, keep_ratio=True, backend='pillow'),
    *_base_.test_pipeline[-2:],
]
data_root = 'data/coco_tiny/'
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        _delete_=True, type='CheckedCocoDataset', data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=2,
    dataset=dict(
        _delete_=True, type='CheckedCocoDataset', data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'), test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

# Optimisation
train_cfg = dict(max_iters=600, val_interval=600)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=50),
    dict(type='MultiStepLR', milestones=[533, 578], by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(checkpoint=dict(interval=600))
