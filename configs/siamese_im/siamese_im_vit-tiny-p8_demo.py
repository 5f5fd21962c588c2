# The demo: generated scenes of 64 px, minutes on two CPU cores. Ours.
_base_ = '../_base_/siamese_im.py'

grid = (8, 8)
model = dict(
    backbone=dict(
        _delete_=True, type='SiameseIMViT',
        arch=dict(embed_dims=192, num_layers=6, num_heads=3,
                  feedforward_channels=768),
        img_size=64, patch_size=8),
    projector=dict(in_dims=192, embed_dims=192, num_heads=6),
    neck=dict(grid=grid, embed_dims=192, depth=2, num_heads=6))
train_pipeline = [
    _base_.load,
    dict(type='PairedViews', size=64, crop_scale=(0.2, 1.0),
         online=_base_.shared_colour, target=_base_.shared_colour),
    dict(type='BlockwiseMask', grid=grid, num_masked=38, min_block=6),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=128, num_workers=1,
    dataset=dict(data_root='data/demo/train', pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=128)
param_scheduler = dict(warmup=1)
train_cfg = dict(max_epochs=10)
custom_hooks = [
    dict(type='MomentumHook', base_momentum=0.98),
    dict(type='ThroughputHook'),
]
default_hooks = dict(
    logger=dict(interval=5),
    checkpoint=dict(interval=2, max_keep_ckpts=1))
