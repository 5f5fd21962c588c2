_base_ = __import__('simim_plugin').ablation_base()
# Ours: both views draw their colours alike, half-way between the roles.

views = dict(_base_.two_views, online=_base_.alike_colour,
             target=_base_.alike_colour)
mask = _base_.block_mask
train_pipeline = [*_base_.loading, views, mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
