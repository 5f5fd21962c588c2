# Row (i) on the demo's generated scenes for 10 epochs, minutes on two CPU
# cores, with the demo's recipe but for two blocks in the decoder and blurred
# views. Our recipe, not the paper's. One rule scales the recipe of every
# method: warm-up, rise of temperatures and held layers have their share of
# the 400 epochs of ablation_in1k.py, 1 - momentum is twice its value, and all
# have one learning rate.
_base_ = ['./siamese_im.py', './runtime.py', './vit_micro.py',
          './ablation_micro.py']

custom_imports = dict(imports=['simim_plugin.ablations'])

grid = (6, 6)
patch_size = 8
model = dict(
    backbone=dict(arch=dict(_base_.micro, _delete_=True),
                  img_size=48, patch_size=patch_size),
    projector=dict(in_dims=128, embed_dims=128, depth=1, num_heads=4),
    neck=dict(grid=grid, embed_dims=128, depth=2, num_heads=4),
    head=dict(negative_weight=0.02 * 768 / 128))

loading = [_base_.load]
colour_jitter = dict(
    type='FastColorJitter',
    brightness=0.5, contrast=0.5, saturation=0.25, hue=0.02)
blur = dict(type='FastGaussianBlur',
            magnitude_range=(0.1, 0.6), magnitude_std='inf')
online_colour = [colour_jitter, dict(blur, prob=1.0)]
target_colour = [colour_jitter, dict(blur, prob=0.1)]
alike_colour = [colour_jitter, dict(blur, prob=0.55)]
crop = dict(size=48, crop_scale=(0.4, 1.0))
views = two_views = dict(type='PairedViews', **crop,
                         online=online_colour, target=target_colour)
same_view = dict(type='SameView', **crop)
mask = block_mask = dict(
    type='BlockwiseMask', grid=grid, num_masked=21, min_block=4)
random_mask = dict(type='RandomMask', grid=grid, num_masked=27)  # 75 %
train_pipeline = [*loading, views, mask, _base_.pack]
train_dataloader = dict(
    batch_size=64, num_workers=1,
    dataset=dict(data_root='data/demo/train', pipeline=train_pipeline))

optim_wrapper = dict(optimizer=dict(lr=_base_.lr))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = dict(warmup=1)
train_cfg = dict(max_epochs=10)
momentum_hook = dict(type='MomentumHook', base_momentum=0.99)
custom_hooks = [momentum_hook, *_base_.watching_hooks]
log_processor = dict(window_size=10)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=2, max_keep_ckpts=1))

# The rivals in configs/rivals: small crops and few outputs; ours
local = dict(size=24, number=4)
rivals = dict(
    queue=2048, outputs=1024, patch_outputs=1024, dropped=11,
    momentum_mocov3=0.98, momentum_dino=0.992,
    warmup_dino=0.25, warmup_msn=0.375, temperature_epochs=1.25, held=0.075,
    tokens=256, predicted=14, classes=8, warmup_supervised=0.125)
