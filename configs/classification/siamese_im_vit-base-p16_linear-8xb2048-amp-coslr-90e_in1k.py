# Linear probing on ImageNet-1k, ViT-B/16: the recipe of the released code.
_base_ = ['../_base_/imagenet_classifier.py', '../_base_/runtime.py']

model = dict(
    # Mean of the patches, then a LayerNorm that stays at weight 1, bias 0
    backbone=dict(out_type='avg_featmap', frozen_stages=12),
    head=dict(type='ProbeHead', num_classes=1000, in_channels=768))

train_pipeline = [
    _base_.load,
    dict(type='SingleDrawCrop', scale=224, crop_ratio_range=(0.08, 1.0),
         interpolation='bicubic', backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=2048,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='LabelledFolder', data_root='data/imagenet/train',
                 pipeline=train_pipeline))
val_dataloader = _base_.test_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

# Optimisation: lr = base x batch / 256, scaled to the batch of the run
optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bf16 on GPUs
    optimizer=dict(type='ProbeLARS', lr=0.1 * 16384 / 256))
auto_scale_lr = dict(base_batch_size=16384, enable=True)
param_scheduler = dict(
    type='WarmupCosineLR', warmup=10, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=1)
val_cfg = dict()
test_cfg = dict()
