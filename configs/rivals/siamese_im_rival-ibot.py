_base_ = [__import__('simim_plugin').ablation_base(),
          '../_base_/self_distillation.py']
# iBOT: DINO, and the teacher's outputs of masked patches (arXiv 2111.07832).

custom_imports = dict(imports=['simim_plugin.rivals'])

model = dict(
    _delete_=True, type='ViTIBOT',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(
        _base_.model.backbone, type='MaskTokenViT', **_base_.distilled),
    neck=dict(
        type='PrototypeHead', in_dims=_base_.model.projector.in_dims,
        out_dims=_base_.rivals.patch_outputs, hidden_dims=_base_.rivals.hidden,
        bottleneck_dims=_base_.rivals.bottleneck),
    head=dict(
        type='DistillationHead', out_dims=_base_.rivals.patch_outputs,
        with_patches=True))
size = _base_.crop['size']
multi_crop = dict(type='MultiCropViews', crops=[
    dict(size=size, crop_scale=(0.32, 1.0), colours=_base_.online_colour),
    dict(size=size, crop_scale=(0.32, 1.0), colours=_base_.target_colour),
    dict(**_base_.local, crop_scale=(0.05, 0.32),
         colours=_base_.alike_colour)])
crop_masks = dict(type='CropMasks', grid=_base_.grid)
train_pipeline = [
    *_base_.loading, multi_crop, crop_masks, dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    optimizer=dict(lr=_base_.rivals.lr_ibot, **_base_.distilled_adamw),
    clip_grad=dict(max_norm=0.3))
param_scheduler = [
    dict(_base_.distilled_lr, warmup=_base_.rivals.warmup_dino),
    _base_.rising_decay]
momentum_hook = dict(
    type='MomentumHook', base_momentum=_base_.rivals.momentum_dino)
rival_hooks = [
    dict(_base_.rising_temperature, epochs=_base_.rivals.temperature_epochs),
    dict(type='HoldLastLayerHook', epochs=_base_.rivals.held)]
custom_hooks = [momentum_hook, *rival_hooks, *_base_.watching_hooks]
