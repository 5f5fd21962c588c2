_base_ = __import__('simim_plugin').ablation_base()
# DenseCL: contrast of images and of matched patches (2011.09157), on a ViT.

custom_imports = dict(imports=['simim_plugin.rivals'])

width = _base_.moco_widths['out_channels']
model = dict(
    _delete_=True, type='ViTDenseCL',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(_base_.model.backbone, final_norm=True),
    neck=dict(
        type='DenseMLPs', in_dims=_base_.model.projector.in_dims,
        hidden_dims=_base_.moco_widths['hid_channels'], out_dims=width),
    head=dict(type='DenseContrastHead', dims=width,
              queue_length=_base_.rivals.queue))
train_pipeline = [
    *_base_.loading, _base_.two_views, dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(
    lr=_base_.rivals.lr_densecl, betas=(0.9, 0.999), weight_decay=0.1))
momentum_hook = dict(
    type='MomentumHook', base_momentum=_base_.rivals.momentum_mocov3)
custom_hooks = [momentum_hook, *_base_.watching_hooks]
