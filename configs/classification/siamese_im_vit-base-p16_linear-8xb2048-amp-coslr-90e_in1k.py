# Linear probing on ImageNet-1k, ViT-B/16: the recipe of the released code.
_base_ = '../_base_/imagenet_trained_classifier.py'

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
    batch_size=2048, dataset=dict(pipeline=train_pipeline))

# Optimisation: lr = base x batch / 256, scaled to the batch of the run
optim_wrapper = dict(
    optimizer=dict(type='ProbeLARS', lr=0.1 * 16384 / 256))
auto_scale_lr = dict(base_batch_size=16384, enable=True)
param_scheduler = dict(warmup=10)
train_cfg = dict(max_epochs=90)
