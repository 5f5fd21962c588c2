# Fine-tuning on ImageNet-1k, ViT-B/16: the recipe of the released code.
_base_ = '../_base_/imagenet_trained_classifier.py'

model = dict(
    backbone=dict(
        out_type='avg_featmap',  # mean of the patches, then a LayerNorm
        train_patch_embed=True,
        drop_path_rate=0.1),
    head=dict(
        type='LinearClsHead', num_classes=1000, in_channels=768,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))

# Data; RandAugment (rand-m9-mstd0.5-inc1) and erasing work in BGR
train_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/RandomResizedCrop',
         size=224, scale=(0.08, 1.0), interpolation='bicubic'),
    dict(type='torchvision/RandomHorizontalFlip'),
    dict(type='PILToNumpy', to_bgr=True),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2,
         magnitude_level=9, magnitude_std=0.5,
         hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand',
         min_area_ratio=0.02, max_area_ratio=1 / 3,
         fill_color=[103.53, 116.28, 123.675],
         fill_std=[57.375, 57.12, 58.395]),
    dict(type='NumpyToPIL', to_rgb=True),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=128, dataset=dict(pipeline=train_pipeline))

# Optimisation: lr = base x batch / 256, scaled to the batch of the run
optim_wrapper = dict(
    constructor='LayerDecayConstructor',
    optimizer=dict(type='AdamW', lr=2.5e-4 * 1024 / 256,
                   betas=(0.9, 0.999), weight_decay=0.05,
                   fused=True),
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        flat_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0)}))
auto_scale_lr = dict(base_batch_size=1024, enable=True)
param_scheduler = dict(warmup=5, eta_min=1e-6)
train_cfg = dict(max_epochs=100)
