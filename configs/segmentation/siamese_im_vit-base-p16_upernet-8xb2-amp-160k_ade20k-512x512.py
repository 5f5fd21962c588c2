# UPerNet on ADE20k, ViT-B/16: MMSegmentation's recipe for MAE, with which MAE
# reaches the paper's 48.1 mIoU, here in mixed precision.
_base_ = ['../_base_/segmentation_ade20k.py', '../_base_/runtime.py']

# Model; `pretrained` is set by tools/train.py --pretrained FILE
norm_cfg = dict(type='BN')  # across GPUs by sync_bn
model = dict(
    backbone=dict(
        type='SiameseIMSegViT', img_size=_base_.crop_size, patch_size=16,
        arch='base', drop_path_rate=0.1, out_indices=(3, 5, 7, 11),
        pretrained=None),
    neck=dict(type='Feature2Pyramid', embed_dim=768,
              rescales=[4, 2, 1, 0.5], norm_cfg=norm_cfg),
    decode_head=dict(
        type='UPerHead', num_classes=150,
        in_channels=[768, 768, 768, 768], in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6), channels=768, dropout_ratio=0.1,
        norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    auxiliary_head=dict(
        type='FCNHead', num_classes=150, in_channels=768, in_index=2,
        channels=256, num_convs=1, concat_input=False, dropout_ratio=0.1,
        norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4)))
sync_bn = 'torch'

# Data
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict(type='ValLoop')

# Optimisation: lr = base x batch / 16, scaled to the batch of the run.
# As in the stock recipe, weight decay includes the positions and cls token.
optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bf16 on GPUs
    constructor='LayerDecayConstructor',
    optimizer=dict(type='AdamW', lr=1e-4 * 16 / 16,
                   betas=(0.9, 0.999), weight_decay=0.05,
                   fused=True),
    paramwise_cfg=dict(layer_decay_rate=0.65, flat_decay_mult=0.0))
auto_scale_lr = dict(base_batch_size=16, enable=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False,
         begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False,
         begin=1500, end=160000),
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
