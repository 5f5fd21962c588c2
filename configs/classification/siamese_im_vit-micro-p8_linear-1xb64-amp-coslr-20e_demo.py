# Linear probing on the demo's generated scenes. Our recipe.
_base_ = [
    './siamese_im_vit-base-p16_linear-8xb2048-amp-coslr-90e_in1k.py',
    '../_base_/vit_micro.py',
]

model = dict(
    data_preprocessor=dict(num_classes=8),
    backbone=dict(
        arch=dict(_base_.micro, _delete_=True),
        img_size=64, patch_size=8, frozen_stages=4),
    head=dict(num_classes=8, in_channels=128))
train_pipeline = [
    _base_.load,
    dict(type='SingleDrawCrop', scale=64, crop_ratio_range=(0.5, 1.0),
         interpolation='bicubic', backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/Resize', size=64, interpolation='bicubic'),
    dict(type='torchvision/CenterCrop', size=64),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=64, num_workers=1,
    dataset=dict(data_root='data/demo/train', pipeline=train_pipeline))
test_dataloader = dict(
    num_workers=1,
    dataset=dict(data_root='data/demo/val', pipeline=test_pipeline))
val_dataloader = test_dataloader
optim_wrapper = dict(optimizer=dict(lr=25.6 * 64 / 256))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = dict(warmup=2)
train_cfg = dict(max_epochs=20)
default_hooks = dict(logger=dict(interval=10))
