_base_ = [__import__('simim_plugin').ablation_base(),
          '../_base_/deit_augmentation.py']
# Supervised training: DeiT's recipe (arXiv 2012.12877).

custom_imports = dict(
    imports=['simim_plugin.rivals', 'simim_plugin.evaluation'])

classes = _base_.rivals.classes
model = dict(
    _delete_=True, type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=classes, mean=_base_.model.data_preprocessor.mean,
        std=_base_.model.data_preprocessor.std),
    backbone=dict(_base_.model.backbone, out_type='cls_token',
                  final_norm=True, train_patch_embed=True,
                  drop_path_rate=0.1),
    head=dict(
        type='LinearClsHead', num_classes=classes,
        in_channels=_base_.model.projector.in_dims,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1)),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
size = _base_.crop['size']
train_pipeline = [
    *_base_.loading,
    dict(type='NumpyToPIL', to_rgb=False),  # RGB already
    dict(type='torchvision/RandomResizedCrop',
         size=size, scale=_base_.crop['crop_scale'], interpolation='bicubic'),
    dict(type='torchvision/RandomHorizontalFlip'),
    *_base_.deit_augmentation,
    dict(type='PackInputs')]
train_dataloader = dict(
    sampler=dict(type='RepeatedSampler'),
    dataset=dict(_base_.rivals.labelled, pipeline=train_pipeline))
optim_wrapper = dict(
    optimizer=dict(lr=_base_.rivals.lr_supervised, betas=(0.9, 0.999)),
    clip_grad=None)
param_scheduler = dict(warmup=_base_.rivals.warmup_supervised, eta_min=1e-5)
averaging = [dict(hook, type='StepEMAHook')
             for hook in _base_.rivals.averaging]
custom_hooks = [
    dict(type='ClassCountHook'), *averaging, *_base_.watching_hooks]
