_base_ = __import__('simim_plugin').ablation_base()
# Row (k): (g) with the loss on the mean of the tokens.

head = dict(_base_.model.head, type='NormedUniGradHead',
            norm=dict(type='MoCoLikeNorm'))
model = dict(head=dict(_delete_=True, type='GlobalHead', head=head))
train_pipeline = [
    *_base_.loading, _base_.two_views, _base_.random_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
