# ViT-S/16 on any folder of images at 128 px. Our recipe.
_base_ = './siamese_im_vit-small-p16_1xb256-accum4-amp-coslr-400e_folder.py'

img_size = 128
grid = (img_size // 16, img_size // 16)
model = dict(backbone=dict(img_size=img_size), neck=dict(grid=grid))
views = dict(_base_.views, size=img_size)
mask = dict(_base_.mask, grid=grid, min_block=6,
            num_masked=round(0.6 * grid[0] * grid[1]))
train_pipeline = [_base_.load, views, mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
