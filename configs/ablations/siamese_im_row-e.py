_base_ = __import__('simim_plugin').ablation_base()
# Row (e): (b) with two views.

layer_norm = dict(type='LN', eps=1e-6)
model = dict(
    projector=dict(norm_cfg=layer_norm),
    neck=dict(norm_cfg=layer_norm),
    head=dict(
        type='NormedUniGradHead', norm=dict(type='MoCoLikeNorm')))
views = dict(_base_.two_views, online=[], target=[])
train_pipeline = [*_base_.loading, views, _base_.random_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
