# Every detection config: Mask R-CNN with ViT-B/16 on COCO for 100 epochs, by
# Detectron2's ViTDet recipe, with which MAE reaches AP 51.6 / 45.9.

custom_imports = dict(
    imports=['simim_plugin.detection'], allow_failed_imports=False)
default_scope = 'mmdet'

# Model; `pretrained` is set by tools/train.py --pretrained FILE
norm = dict(type='mmpretrain.LN2d', eps=1e-6)  # over channels
extractor = dict(
    type='Float32RoIExtractor',
    roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
    out_channels=256,
    featmap_strides=[4, 8, 16, 32])
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=1024),  # square, after the normalisation
    backbone=dict(
        type='SiameseIMViTDet', arch='base', img_size=1024, patch_size=16,
        window_size=14, drop_path_rate=0.1, pretrained=None),
    neck=dict(type='SiameseIMFeaturePyramid', in_channels=768),
    rpn_head=dict(
        type='Float32RPNHead',
        in_channels=256,
        feat_channels=256,
        num_convs=2,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder',
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss')),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=extractor,
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            norm_cfg=norm,
            bbox_coder=dict(
                type='DeltaXYWHBBoxCoder',
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
            loss_bbox=dict(type='L1Loss')),
        mask_roi_extractor=dict(
            extractor, roi_layer=dict(
                type='RoIAlign', output_size=14, sampling_ratio=0)),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=80,
            norm_cfg=norm,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True))),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3,
                min_pos_iou=0.0, match_low_quality=True),
            sampler=dict(
                type='RandomSampler', num=256, pos_fraction=0.5,
                add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1),
        rpn_proposal=dict(
            nms_pre=2000, max_per_img=1000,
            nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5,
                min_pos_iou=0.5, match_low_quality=False),
            sampler=dict(
                type='RandomSampler', num=512, pos_fraction=0.25,
                add_gt_as_proposals=True),
            mask_size=28,
            pos_weight=-1)),
    test_cfg=dict(
        rpn=dict(
            nms_pre=1000, max_per_img=1000,
            nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=100, mask_thr_binary=0.5)))

# Data: large-scale jitter; resizing by Pillow, which antialiases
load = dict(type='LoadImageFromFile')
annotate = dict(
    type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)
drop_empty_boxes = dict(
    type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2),
    keep_empty=False)  # images without objects stay
pack = dict(type='PackDetInputs')
pack_with_objects = dict(
    pack, meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                     'scale_factor', 'instances', 'upright'))
train_pipeline = [
    load,
    annotate,
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0),
         keep_ratio=True, resize_type='Resize', backend='pillow'),
    dict(type='RandomCrop', crop_size=(1024, 1024), crop_type='absolute',
         recompute_bbox=True, allow_negative_crop=True),
    drop_empty_boxes,
    pack,
]
test_pipeline = [
    load,
    dict(type='Resize', scale=(1024, 1024), keep_ratio=True,
         backend='pillow'),
    annotate,  # for drawings and for an evaluator without ann_file
    pack_with_objects,
]
data_root = 'data/coco/'
train_dataloader = dict(
    batch_size=4,  # on each of 16 GPUs
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='CheckedCocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='CheckedCocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/instances_val2017.json',
    metric=['bbox', 'segm'])
test_evaluator = val_evaluator

# Optimisation; simim_plugin.detection.schedule computes it for other batches
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=184375, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='mmpretrain.AutocastOptimWrapper',
    optimizer=dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='mmpretrain.LayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.0,
        custom_keys={'.pos_embed': dict(decay_mult=0.0)}))
warmup = dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=250)
param_scheduler = [
    warmup,
    dict(type='MultiStepLR', milestones=[163889, 177546], by_epoch=False),
]
auto_scale_lr = dict(base_batch_size=64, enable=True)

# Runtime
custom_hooks = [
    dict(type='mmpretrain.ClassCountHook', parts=('roi_head',)),
    dict(type='MaskHook'),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='mmpretrain.SafeCheckpointHook', by_epoch=False,
                    interval=5000, max_keep_ckpts=1),
    visualization=dict(type='PNGVisualizationHook'))
visualizer = dict(type='DetLocalVisualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
