# Row (i) on CIFAR-10, one GPU, 100 epochs. Our recipe, not the paper's:
# siamese_im_vit-tiny-p4_1xb512-amp-coslr-400e_cifar10.py with a different blur
# and solarisation for each view, as on ImageNet.
_base_ = ['./siamese_im.py', './runtime.py']

custom_imports = dict(imports=['simim_plugin.ablations'])

grid = (8, 8)
patch_size = 4
model = dict(
    # MMPretrain's name, for the row of MAE
    backbone=dict(arch='deit-tiny', img_size=32, patch_size=patch_size),
    projector=dict(in_dims=192, embed_dims=192, num_heads=3),
    neck=dict(grid=grid, embed_dims=192, num_heads=3))

loading = []  # the data set returns images
blur = dict(type='FastGaussianBlur',
            magnitude_range=(0.1, 0.6), magnitude_std='inf')
online_colour = [*_base_.shared_colour, dict(blur, prob=1.0)]
target_colour = [
    *_base_.shared_colour, dict(blur, prob=0.1),
    dict(type='Solarize', thr=128, prob=0.2)]
alike_colour = [
    *_base_.shared_colour, dict(blur, prob=0.55),
    dict(type='Solarize', thr=128, prob=0.1)]
crop = dict(size=32, crop_scale=(0.2, 1.0))
views = two_views = dict(type='PairedViews', **crop,
                         online=online_colour, target=target_colour)
same_view = dict(type='SameView', **crop)
mask = block_mask = dict(
    type='BlockwiseMask', grid=grid, num_masked=38, min_block=6)
random_mask = dict(type='RandomMask', grid=grid, num_masked=48)  # 75 %
train_pipeline = [views, mask, _base_.pack]
train_dataloader = dict(
    batch_size=512,
    dataset=dict(_delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
                 split='train', pipeline=train_pipeline))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=512)
param_scheduler = dict(warmup=10)
train_cfg = dict(max_epochs=100)

mae_decoder = dict(
    embed_dim=192, decoder_embed_dim=192, decoder_depth=6,
    decoder_num_heads=3)
mae_lr = 1e-3
moco_widths = dict(hid_channels=1024, out_channels=192)

# The rivals in configs/rivals: small crops and heads; ours
local = dict(size=16, number=4)
rivals = dict(
    queue=8192, hidden=512, bottleneck=128, outputs=4096, patch_outputs=4096,
    prototypes=256, dropped=10, lr_mocov3=1e-3, lr_densecl=1e-3,
    lr_dino=1e-3, lr_ibot=1e-3, lr_msn=1e-3,
    momentum_mocov3=0.99, momentum_dino=0.996,
    warmup_dino=10, warmup_msn=10, temperature_epochs=10, held=1,
    tokens=512, predicted=24, lr_beit=1e-3,
    classes=10, labelled=dict(),
    lr_supervised=1e-3, warmup_supervised=5,
    averaging=[])
