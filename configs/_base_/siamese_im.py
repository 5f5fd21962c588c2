# Siamese Image Modeling, ViT-B/16 on ImageNet-1k: the recipe of the paper and
# the released code. The configs in configs/siamese_im/ change it by part.

custom_imports = dict(
    imports=['simim_plugin.pretraining'], allow_failed_imports=False)
default_scope = 'mmpretrain'

# Model
model = dict(
    type='SiameseIM',
    data_preprocessor=dict(
        type='PairDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375]),
    backbone=dict(
        type='SiameseIMViT', arch='base', img_size=224, patch_size=16),
    projector=dict(
        type='TransformerProjector', in_dims=768, embed_dims=768, depth=2),
    neck=dict(
        type='RelativePositionDecoder',
        grid=(14, 14), embed_dims=768, depth=4),
    head=dict(type='UniGradHead', negative_weight=0.02))

# Data: the online view is masked, the target view is not
load = dict(type='LoadRGBImage')
pack = dict(type='PackInputs', algorithm_keys=['geometry'])
jitter = dict(type='FastColorJitter', prob=0.8,
              brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
shared_colour = [jitter, dict(type='FastGrayscale', prob=0.2)]
blur = dict(type='FastGaussianBlur',
            magnitude_range=(0.1, 2.0), magnitude_std='inf')
online_colour = [*shared_colour, dict(blur, prob=1.0)]
target_colour = [
    *shared_colour, dict(blur, prob=0.1),
    dict(type='Solarize', thr=128, prob=0.2)]
views = dict(type='PairedViews', size=224, crop_scale=(0.08, 1.0),
             online=online_colour, target=target_colour)
mask = dict(type='BlockwiseMask', grid=(14, 14), num_masked=118, min_block=16)
train_pipeline = [load, views, mask, pack]
train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='SeededSampler', shuffle=True),
    collate_fn=dict(type='collate_pairs'),
    dataset=dict(type='ImageFolder', data_root='data/imagenet/train',
                 pipeline=train_pipeline))

# Optimisation: lr = base x batch / 256, scaled to the batch of the run
# (processes x batch_size x accumulative_counts) by auto_scale_lr
optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bf16 on GPUs
    constructor='LayerDecayConstructor',
    optimizer=dict(type='AdamW', lr=6.25e-5 * 4096 / 256,
                   betas=(0.9, 0.95), weight_decay=0.05,
                   fused=True),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=4096, enable=True)
param_scheduler = dict(
    type='WarmupCosineLR', warmup=40, convert_to_iter_based=True)
train_cfg = dict(type='ExactEpochLoop', max_epochs=1600)

# Runtime
momentum_hook = dict(type='MomentumHook', base_momentum=0.995)
watching_hooks = [
    dict(type='ThroughputHook'),
    dict(type='CollapseMonitor', interval=50),
    dict(type='NonFiniteGuard'),
]
custom_hooks = [momentum_hook, *watching_hooks]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='mmpretrain.SafeCheckpointHook',
                    interval=5, max_keep_ckpts=3))
visualizer = dict(type='UniversalVisualizer',
                  vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(
    window_size=50,
    mean_pattern=r'.*(loss|term|time|grad_norm|images_per_second).*')
