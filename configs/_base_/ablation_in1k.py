# Row (i) of the paper's table 3 on ImageNet-1k: the method, for 400 epochs.
# The rows in configs/ablations/ are differences from it, made of these parts.
_base_ = ['./siamese_im.py', './runtime.py']

custom_imports = dict(imports=['simim_plugin.ablations'])

train_cfg = dict(max_epochs=400)

grid = (14, 14)
patch_size = 16

loading = [_base_.load]
crop = dict(size=224, crop_scale=(0.08, 1.0))
two_views = _base_.views
same_view = dict(type='SameView', **crop)
block_mask = _base_.mask
random_mask = dict(type='RandomMask', grid=grid, num_masked=147)  # ours: 75 %

# Halfway between the two roles: the mean of their probabilities
alike_colour = [
    *_base_.shared_colour, dict(_base_.blur, prob=0.55),
    dict(type='Solarize', thr=128, prob=0.1)]

# Other methods: MAE's decoder and learning rate, MoCo-v3's MLPs
mae_decoder = dict(
    embed_dim=768, decoder_embed_dim=512, decoder_depth=8,
    decoder_num_heads=16)
mae_lr = 1.5e-4 * 4096 / 256
moco_widths = dict(hid_channels=4096, out_channels=256)

# The rivals in configs/rivals: small crops, heads, and batches of the sources
local = dict(size=96, number=10)
rivals = dict(
    queue=65536, hidden=2048, bottleneck=256, outputs=65536,
    patch_outputs=8192, prototypes=1024, dropped=59,
    lr_mocov3=1.5e-4 * 4096 / 256, lr_densecl=1.5e-4 * 4096 / 256,
    lr_dino=7.5e-4 * 4096 / 256, lr_ibot=7.5e-4 * 4096 / 256,
    lr_msn=1e-3 * 4096 / 1024,
    momentum_mocov3=0.99, momentum_dino=0.996,
    warmup_dino=10, warmup_msn=15, temperature_epochs=50, held=3,
    tokens=8192, predicted=75, lr_beit=1.5e-3 * 4096 / 2048,
    classes=1000, labelled=dict(type='LabelledFolder'),
    lr_supervised=5e-4 * 4096 / 512, warmup_supervised=5,
    averaging=[dict(type='EMAHook', momentum=4e-5)])
