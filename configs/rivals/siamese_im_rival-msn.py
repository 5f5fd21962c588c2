_base_ = [__import__('simim_plugin').ablation_base(),
          '../_base_/self_distillation.py']
# MSN: masked views are assigned to prototypes as the target (2204.07141).

custom_imports = dict(
    imports=['simim_plugin.rivals', 'simim_plugin.ablations'])

model = dict(
    _delete_=True, type='ViTMSN',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(_base_.model.backbone, final_norm=True,
                  train_patch_embed=True),
    neck=dict(
        type='ProjectionMLP', in_dims=_base_.model.projector.in_dims,
        hidden_dims=_base_.rivals.hidden, out_dims=_base_.rivals.bottleneck),
    head=dict(
        type='AssignmentHead', dims=_base_.rivals.bottleneck,
        num_prototypes=_base_.rivals.prototypes))
sync_bn = 'torch'
size = _base_.crop['size']
multi_crop = dict(type='MultiCropViews', crops=[
    dict(size=size, crop_scale=(0.3, 1.0), number=2,
         colours=_base_.alike_colour),
    dict(**_base_.local, crop_scale=(0.05, 0.3),
         colours=_base_.alike_colour)])
dropped = dict(_base_.random_mask, num_masked=_base_.rivals.dropped)
train_pipeline = [
    *_base_.loading, multi_crop, dropped, dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    optimizer=dict(lr=_base_.rivals.lr_msn, **_base_.distilled_adamw),
    clip_grad=dict(max_norm=3.0))
param_scheduler = [
    dict(_base_.distilled_lr, warmup=_base_.rivals.warmup_msn, eta_min=1e-6),
    _base_.rising_decay]
momentum_hook = dict(
    type='MomentumHook', base_momentum=_base_.rivals.momentum_dino,
    schedule='linear', stretch=1.25)
custom_hooks = [momentum_hook, *_base_.watching_hooks]
