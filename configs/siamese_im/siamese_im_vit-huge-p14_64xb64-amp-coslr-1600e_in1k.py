# ViT-H/14. No source gives its decoder width, lr and mask: ViT-B's width and
# lr, and ViT-B's masked share, 154 of 256 patches, are ours.
_base_ = '../_base_/siamese_im.py'

grid = (16, 16)
model = dict(
    backbone=dict(arch='huge', patch_size=14),
    projector=dict(in_dims=1280),
    neck=dict(grid=grid))
train_pipeline = [
    _base_.load,
    dict(type='PairedViews', size=224, crop_scale=(0.08, 1.0),
         online=_base_.online_colour, target=_base_.target_colour),
    dict(type='BlockwiseMask', grid=grid, num_masked=154, min_block=16),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=64, dataset=dict(pipeline=train_pipeline))
