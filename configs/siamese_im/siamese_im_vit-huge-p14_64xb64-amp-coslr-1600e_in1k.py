# ViT-H/14. No source gives its decoder width, lr and mask: we take ViT-B's
# width, lr and masked share, which is 154 of 256 patches.
_base_ = ['../_base_/siamese_im.py', '../_base_/runtime.py']

grid = (16, 16)
model = dict(
    backbone=dict(arch='huge', patch_size=14),
    projector=dict(in_dims=1280),
    neck=dict(grid=grid))
mask = dict(_base_.mask, grid=grid, num_masked=154)
train_pipeline = [_base_.load, _base_.views, mask, _base_.pack]
train_dataloader = dict(
    batch_size=64, dataset=dict(pipeline=train_pipeline))
