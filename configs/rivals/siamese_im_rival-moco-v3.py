_base_ = __import__('simim_plugin').ablation_base()
# MoCo-v3: InfoNCE between the cls tokens of two views (arXiv 2104.02057).

custom_imports = dict(imports=['simim_plugin.rivals'])

mlp = dict(type='FeatureMLP', with_last_bn_affine=False,
           norm_cfg=dict(type='BN1d'), **_base_.moco_widths)
model = dict(
    _delete_=True, type='ViTMoCoV3',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(_base_.model.backbone, final_norm=True),
    neck=dict(mlp, in_channels=_base_.model.projector.in_dims, num_layers=3),
    head=dict(
        type='InfoNCEHead', temperature=0.2,
        predictor=dict(mlp, in_channels=mlp['out_channels'], num_layers=2)))
sync_bn = 'torch'
train_pipeline = [
    *_base_.loading, _base_.two_views, dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(
    lr=_base_.rivals.lr_mocov3, betas=(0.9, 0.999), weight_decay=0.1))
momentum_hook = dict(
    type='MomentumHook', base_momentum=_base_.rivals.momentum_mocov3)
custom_hooks = [momentum_hook, *_base_.watching_hooks]
