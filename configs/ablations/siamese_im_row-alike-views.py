_base_ = __import__('simim_plugin').ablation_base()
# Ours: both views draw their colours alike, halfway between the two roles.

views = dict(_base_.two_views, online=_base_.alike_colour,
             target=_base_.alike_colour)
train_pipeline = [*_base_.loading, views, _base_.block_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
