# What all classification configs share: a ViT-B/16, ImageNet-1k in folders of
# classes, the evaluation crop, the runtime. The configs add the protocol.
_base_ = './runtime.py'

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
test_evaluator = dict(type='Accuracy', topk=(1, 5))
test_cfg = dict()

# Runtime
custom_hooks = [dict(type='ClassCountHook')]
default_hooks = dict(
    checkpoint=dict(interval=1),
    visualization=dict(type='VisualizationHook', enable=False))
visualizer = dict(type='UniversalVisualizer', vis_backends=_base_.vis_backends)
