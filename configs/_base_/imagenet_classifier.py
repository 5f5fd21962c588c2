# Every classification config: a ViT-B/16, ImageNet-1k in folders of classes
# and the evaluation crop. The configs add the protocol.

custom_imports = dict(
    imports=['simim_plugin.evaluation'], allow_failed_imports=False)
default_scope = 'mmpretrain'

# Model; `pretrained` is set by tools/train.py --pretrained FILE
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375]),
    backbone=dict(
        type='SiameseIMViT', arch='base', img_size=224, patch_size=16,
        pretrained=None))

# Data: RGB; resizing by Pillow, which antialiases
load = dict(type='LoadRGBImage')
to_pil = dict(type='NumpyToPIL', to_rgb=False)  # RGB already
pack = dict(type='PackInputs')
test_pipeline = [
    load,
    to_pil,
    dict(type='torchvision/Resize', size=256, interpolation='bicubic'),
    dict(type='torchvision/CenterCrop', size=224),
    pack,
]
test_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='LabelledFolder', data_root='data/imagenet/val',
                 pipeline=test_pipeline))

# Runtime
custom_hooks = [dict(type='ClassCountHook')]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='mmpretrain.SafeCheckpointHook',
                    interval=1, max_keep_ckpts=1),
    visualization=dict(type='VisualizationHook', enable=False))
visualizer = dict(type='UniversalVisualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
