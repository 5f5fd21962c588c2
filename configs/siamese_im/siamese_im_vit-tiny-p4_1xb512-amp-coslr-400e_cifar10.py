# CIFAR-10 on one small GPU: 32 px, patch 4. Our recipe, not the paper's.
_base_ = ['../_base_/siamese_im.py', '../_base_/runtime.py']

grid = (8, 8)
model = dict(
    backbone=dict(arch='deit-tiny', img_size=32, patch_size=4),
    projector=dict(in_dims=192, embed_dims=192, num_heads=3),
    neck=dict(grid=grid, embed_dims=192, num_heads=3))
views = dict(type='PairedViews', size=32, crop_scale=(0.2, 1.0),
             online=_base_.shared_colour, target=_base_.shared_colour)
mask = dict(type='BlockwiseMask', grid=grid, num_masked=38, min_block=6)
train_pipeline = [views, mask, _base_.pack]
train_dataloader = dict(
    batch_size=512,
    dataset=dict(_delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
                 split='train', pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=512)
train_cfg = dict(max_epochs=400)
