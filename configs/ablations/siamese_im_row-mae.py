_base_ = __import__('simim_plugin').ablation_base()
# Row MAE: MMPretrain's algorithm with MAE's own crops.

model = dict(
    _delete_=True, type='MAE',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(_base_.model.backbone, type='MAEViT', mask_ratio=0.75),
    neck=dict(
        type='MAEPretrainDecoder', patch_size=_base_.patch_size,
        num_patches=_base_.grid[0] * _base_.grid[1], **_base_.mae_decoder),
    head=dict(
        type='MAEPretrainHead', patch_size=_base_.patch_size, norm_pix=True,
        loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    init_cfg=[dict(type='Xavier', layer='Linear', distribution='uniform')])
train_pipeline = [
    *_base_.loading,
    dict(type='RandomResizedCrop', scale=_base_.crop['size'], backend='pillow',
         interpolation='bicubic', crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=_base_.mae_lr))
custom_hooks = _base_.watching_hooks  # no momentum
