_base_ = __import__('simim_plugin').ablation_base()
# Ours: crops from 0.2 of the image instead of 0.08; on smaller images, from
# 2.5 times the scale's lower bound, at most halfway to the whole image.

lower = _base_.crop['crop_scale'][0]
lower = min(2.5 * lower, (1 + lower) / 2)
views = dict(_base_.two_views, crop_scale=(lower, 1.0))
train_pipeline = [*_base_.loading, views, _base_.block_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
