_base_ = __import__('simim_plugin').ablation_base()
# Row 'MoCo-v3 with mask': MMPretrain's algorithm with the global UniGrad loss.

mlp = dict(
    type='MeanTokenNeck', in_channels=_base_.model.projector.in_dims,
    num_layers=3, with_last_bn_affine=False, with_avg_pool=False,
    norm_cfg=dict(type='BN1d'), **_base_.moco_widths)
head = dict(_base_.model.head, type='NormedUniGradHead',
            norm=dict(type='MoCoLikeNorm'))
model = dict(
    _delete_=True, type='MaskedMoCoV3',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=mlp,
    head=dict(
        type='PredictorHead',
        predictor=dict(mlp, type='NonLinearNeck', num_layers=2,
                       in_channels=mlp['out_channels']),
        loss=dict(type='GlobalHead', head=head)))
sync_bn = 'torch'
train_pipeline = [
    *_base_.loading, _base_.two_views, _base_.random_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
