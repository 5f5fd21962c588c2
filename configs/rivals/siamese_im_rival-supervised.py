_base_ = __import__('simim_plugin').ablation_base()
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
# RandAugment (rand-m9-mstd0.5-inc1) and erasing work in BGR
train_pipeline = [
    *_base_.loading,
    dict(type='NumpyToPIL', to_rgb=False),  # RGB already
    dict(type='torchvision/RandomResizedCrop',
         size=size, scale=_base_.crop['crop_scale'], interpolation='bicubic'),
    dict(type='torchvision/RandomHorizontalFlip'),
    dict(type='PILToNumpy', to_bgr=True),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2,
         magnitude_level=9, magnitude_std=0.5,
         hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand',
         min_area_ratio=0.02, max_area_ratio=1 / 3,
         fill_color=[103.53, 116.28, 123.675],
         fill_std=[57.375, 57.12, 58.395]),
    dict(type='NumpyToPIL', to_rgb=True),
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
