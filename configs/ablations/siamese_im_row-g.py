_base_ = __import__('simim_plugin').ablation_base()
# Row (g): (f) with BatchNorm in projector and decoder.

model = dict(head=dict(
    type='NormedUniGradHead', norm=dict(type='MoCoLikeNorm')))
train_pipeline = [
    *_base_.loading, _base_.two_views, _base_.random_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
