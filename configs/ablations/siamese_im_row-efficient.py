_base_ = __import__('simim_plugin').ablation_base()
# Ours: a target view of half the side, and three quarters of the online view
# masked: 0.41 of the operations of a step.

target_grid = (_base_.grid[0] // 2, _base_.grid[0] // 2)
views = dict(_base_.two_views, type='SmallTargetViews',
             target_size=target_grid[0] * _base_.patch_size)
model = dict(
    type='SmallTargetSiameseIM', neck=dict(target_grid=target_grid))
mask = dict(_base_.block_mask, num_masked=_base_.random_mask.num_masked)
train_pipeline = [*_base_.loading, views, mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
