_base_ = __import__('simim_plugin').ablation_base()
# Ours: a target view of half the side, a quarter of the tokens.

target_grid = (_base_.grid[0] // 2, _base_.grid[0] // 2)
views = dict(_base_.two_views, type='SmallTargetViews',
             target_size=target_grid[0] * _base_.patch_size)
model = dict(
    type='SmallTargetSiameseIM', neck=dict(target_grid=target_grid))
train_pipeline = [*_base_.loading, views, _base_.block_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
