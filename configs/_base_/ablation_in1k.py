# The ablations of the paper's table 3 on ImageNet-1k: this is row (i), the
# method. A row in configs/ablations/ says what differs, by the parts below.
_base_ = './siamese_im.py'

custom_imports = dict(imports=['simim_plugin.ablations'])

train_cfg = dict(max_epochs=400)

grid = (14, 14)
patch_size = 16

loading = [_base_.load]
crop = dict(size=224, crop_scale=(0.08, 1.0))
two_views = dict(type='PairedViews', **crop,
                 online=_base_.online_colour, target=_base_.target_colour)
same_view = dict(type='SameView', **crop)
block_mask = dict(
    type='BlockwiseMask', grid=grid, num_masked=118, min_block=16)
random_mask = dict(type='RandomMask', grid=grid, num_masked=147)  # ours: 75 %
train_pipeline = [*loading, two_views, block_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# Between the two roles: blur and solarisation as often as in their mean
alike_colour = [
    *_base_.shared_colour, dict(_base_.blur, prob=0.55),
    dict(type='Solarize', thr=128, prob=0.1)]

# Of other methods: MAE's decoder and learning rate, MoCo-v3's MLPs
mae_decoder = dict(
    embed_dim=768, decoder_embed_dim=512, decoder_depth=8,
    decoder_num_heads=16)
mae_lr = 1.5e-4 * 4096 / 256
moco_widths = dict(hid_channels=4096, out_channels=256)
