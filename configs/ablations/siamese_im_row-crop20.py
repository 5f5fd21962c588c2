_base_ = __import__('simim_plugin').ablation_base()
# Ours: crops from 0.2 of the image instead of 0.08; on smaller images from 2.5
# times what they have.

lower = 2.5 * _base_.crop['crop_scale'][0]
views = dict(_base_.two_views, crop_scale=(lower, 1.0))
mask = _base_.block_mask
train_pipeline = [*_base_.loading, views, mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
