# The demo: generated scenes, seen in views of 48 px, minutes on two CPU cores.
# Our recipe, not the paper's, tuned by the demo's own figures (docs/demo.md).
# The jitter keeps the hues, which identify an object and not its scene.
_base_ = [
    '../_base_/siamese_im.py',
    '../_base_/vit_micro.py',
    '../_base_/runtime.py',
]

grid = (6, 6)
model = dict(
    backbone=dict(arch=dict(_base_.micro, _delete_=True),
                  img_size=48, patch_size=8),
    projector=dict(in_dims=128, embed_dims=128, depth=1, num_heads=4),
    # One block is cheaper, and kNN is as high or higher.
    neck=dict(grid=grid, embed_dims=128, depth=1, num_heads=4),
    # The negative term of collapsed features grows with their width.
    head=dict(negative_weight=0.02 * 768 / 128))
colour = [dict(type='FastColorJitter',
               brightness=0.5, contrast=0.5, saturation=0.25, hue=0.02)]
views = dict(type='PairedViews', size=48, crop_scale=(0.4, 1.0),
             online=colour, target=colour)
mask = dict(type='BlockwiseMask', grid=grid, num_masked=21, min_block=4)
train_pipeline = [_base_.load, views, mask, _base_.pack]
train_dataloader = dict(
    batch_size=64, num_workers=1,
    dataset=dict(data_root='data/demo/train', pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = dict(warmup=1)
train_cfg = dict(max_epochs=20)
momentum_hook = dict(type='MomentumHook', base_momentum=0.99)
watching_hooks = [
    dict(type='ThroughputHook'),
    dict(type='CollapseMonitor', interval=10),
    dict(type='NonFiniteGuard'),
]
custom_hooks = [momentum_hook, *watching_hooks]
log_processor = dict(window_size=10)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=2, max_keep_ckpts=1))
