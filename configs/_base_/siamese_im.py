# Siamese Image Modeling, ViT-B/16 on ImageNet-1k: the recipe of the paper
# and the released code. A config of configs/siamese_im/ says what differs.
custom_imports = dict(
    imports=[
        'simim_plugin.models', 'simim_plugin.datasets', 'simim_plugin.engine'
    ],
    allow_failed_imports=False)
default_scope = 'mmpretrain'
runner_type = 'SiameseIMRunner'

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

# Views: the online one is masked, the target one is seen whole
shared_colour = [
    dict(type='FastColorJitter', prob=0.8,
         brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
    dict(type='FastGrayscale', prob=0.2),
]
blur = dict(type='FastGaussianBlur',
            magnitude_range=(0.1, 2.0), magnitude_std='inf')
online_colour = [*shared_colour, dict(blur, prob=1.0)]
target_colour = [
    *shared_colour, dict(blur, prob=0.1),
    dict(type='Solarize', thr=128, prob=0.2)]
load = dict(type='LoadRGBImage')
pack = dict(type='PackInputs', algorithm_keys=['geometry'])
train_pipeline = [
    load,
    dict(type='PairedViews', size=224, crop_scale=(0.08, 1.0),
         online=online_colour, target=target_colour),
    dict(type='BlockwiseMask', grid=(14, 14), num_masked=118, min_block=16),
    pack,
]
train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageFolder', data_root='data/imagenet/train',
                 pipeline=train_pipeline))

# Optimisation: lr = base x batch / 256, scaled to the batch of the run
# (processes x batch_size x accumulative_counts) by auto_scale_lr
optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bf16 on GPUs
    constructor='LayerDecayConstructor',
    optimizer=dict(type='AdamW', lr=6.25e-5 * 4096 / 256,
                   betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=4096, enable=True)
param_scheduler = dict(
    type='WarmupCosineLR', warmup=40, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=1600)
sync_bn = 'torch'

# Runtime
custom_hooks = [
    dict(type='MomentumHook', base_momentum=0.995),
    dict(type='ThroughputHook'),
]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=5, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'))
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
randomness = dict(seed=0, diff_rank_seed=True)
log_processor = dict(
    window_size=50,
    mean_pattern=r'.*(loss|term|time|grad_norm|images_per_second).*')
log_level = 'INFO'
load_from = None
resume = False
