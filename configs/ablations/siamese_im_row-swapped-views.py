_base_ = __import__('simim_plugin').ablation_base()
# Ours: the online view has the target's colours and vice versa.

views = dict(_base_.two_views, online=_base_.target_colour,
             target=_base_.online_colour)
train_pipeline = [*_base_.loading, views, _base_.block_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
