# Every segmentation config: ADE20k, its pipelines and the sliding-window test.
# The configs add the model and the schedule.

custom_imports = dict(
    imports=['simim_plugin.segmentation'], allow_failed_imports=False)
default_scope = 'mmseg'

# Model; images and windows smaller than the crop are padded
crop_size = (512, 512)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', bgr_to_rgb=True,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        pad_val=0, seg_pad_val=255,
        size=crop_size, test_cfg=dict(size=crop_size)),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(341, 341)))

# Data: BGR images; label 0 means unlabelled
load = dict(type='LoadImageFromFile')
load_labels = dict(type='LoadLabelMap')
pack = dict(
    type='PackSegInputs',
    meta_keys=('img_path', 'seg_map_path', 'ori_shape', 'img_shape',
               'pad_shape', 'scale_factor', 'flip', 'flip_direction',
               'reduce_zero_label', 'upright'))
train_pipeline = [
    load,
    load_labels,
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0),
         keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    pack,
]
test_pipeline = [
    load,
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    load_labels,  # after the resize: the prediction is resized instead
    pack,
]
data_root = 'data/ade/ADEChallengeData2016'
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='CheckedADE20KDataset', data_root=data_root,
        data_prefix=dict(img_path='images/training',
                         seg_map_path='annotations/training'),
        pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='CheckedADE20KDataset', data_root=data_root,
        data_prefix=dict(img_path='images/validation',
                         seg_map_path='annotations/validation'),
        pipeline=test_pipeline))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict(type='TestLoop')

# Runtime
custom_hooks = [
    dict(type='mmpretrain.ClassCountHook',
         parts=('decode_head', 'auxiliary_head')),
    dict(type='OneChannelHook'),
    dict(type='OneSizeHook'),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='mmpretrain.SafeCheckpointHook', by_epoch=False,
                    interval=16000, max_keep_ckpts=1),
    visualization=dict(type='AsLoadedVisualizationHook'))
visualizer = dict(type='SegLocalVisualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(by_epoch=False)
