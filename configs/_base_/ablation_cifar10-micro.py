# Row (i) on CIFAR-10 with ViT-Micro/4, 2 epochs, minutes on two CPU cores. Our
# recipe, not the paper's. One rule scales the recipe of every method: warm-up,
# rise of temperatures and held layers have their share of the 400 epochs of
# ablation_in1k.py, and 1 - momentum is four times its value. One rule chose
# the learning rates (docs/results.md).
_base_ = ['./siamese_im.py', './runtime.py', './vit_micro.py',
          './ablation_micro.py']

custom_imports = dict(imports=['simim_plugin.ablations'])

grid = (8, 8)
patch_size = 4
model = dict(
    backbone=dict(arch=dict(_base_.micro, _delete_=True),
                  img_size=32, patch_size=patch_size),
    projector=dict(in_dims=128, embed_dims=128, depth=1, num_heads=4),
    neck=dict(grid=grid, embed_dims=128, depth=2, num_heads=4),
    head=dict(negative_weight=0.02 * 768 / 128))

loading = [_base_.load]
blur = dict(type='FastGaussianBlur',
            magnitude_range=(0.1, 0.6), magnitude_std='inf')
online_colour = [_base_.jitter, dict(blur, prob=1.0)]
target_colour = [_base_.jitter, dict(blur, prob=0.1)]
alike_colour = [_base_.jitter, dict(blur, prob=0.55)]
crop = dict(size=32, crop_scale=(0.4, 1.0))
views = two_views = dict(type='PairedViews', **crop,
                         online=online_colour, target=target_colour)
same_view = dict(type='SameView', **crop)
mask = block_mask = dict(
    type='BlockwiseMask', grid=grid, num_masked=38, min_block=6)
random_mask = dict(type='RandomMask', grid=grid, num_masked=48)  # 75 %
train_pipeline = [*loading, views, mask, _base_.pack]
train_dataloader = dict(
    batch_size=64, num_workers=1,
    dataset=dict(data_root='data/cifar10-folders/train',
                 pipeline=train_pipeline))

optim_wrapper = dict(optimizer=dict(lr=_base_.lr))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = dict(warmup=0.2)
train_cfg = dict(max_epochs=2)
momentum_hook = dict(type='MomentumHook', base_momentum=0.98)
custom_hooks = [momentum_hook, *_base_.watching_hooks]
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))

# The rivals in configs/rivals: small crops and few outputs; ours
local = dict(size=16, number=4)
rivals = dict(
    lr_mocov3=5e-4, lr_densecl=5e-4, lr_msn=2e-3, lr_beit=2e-3,
    lr_supervised=5e-4, lr_dino=5e-4, lr_ibot=5e-4,
    queue=4096, outputs=2048, patch_outputs=2048, dropped=19,
    momentum_mocov3=0.96, momentum_dino=0.984,
    warmup_dino=0.05, warmup_msn=0.075, temperature_epochs=0.25, held=0.015,
    tokens=512, predicted=24, classes=10, warmup_supervised=0.025)
