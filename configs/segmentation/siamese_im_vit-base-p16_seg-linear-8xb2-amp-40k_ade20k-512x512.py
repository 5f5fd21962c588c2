# Linear segmentation of frozen patch features, ADE20k, ViT-B/16. Our recipe.
_base_ = ['../_base_/segmentation_ade20k.py', '../_base_/runtime.py']

# Model; `pretrained` is set by tools/train.py --pretrained FILE
model = dict(
    backbone=dict(
        type='mmpretrain.SiameseIMViT', arch='base',
        img_size=_base_.crop_size, patch_size=16, out_type='featmap',
        frozen_stages=12, pretrained=None),
    decode_head=dict(
        type='LinearSegHead', num_classes=150, in_channels=768, in_index=-1,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)))
sync_bn = 'torch'

# Data
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict(type='ValLoop')

# Optimisation: lr = base x batch / 16, scaled to the batch of the run
optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bf16 on GPUs
    optimizer=dict(type='AdamW', lr=1e-3 * 16 / 16,
                   betas=(0.9, 0.999), weight_decay=1e-4))
auto_scale_lr = dict(base_batch_size=16, enable=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False,
         begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False,
         begin=1500, end=40000),
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=40000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
