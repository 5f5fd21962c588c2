# UPerNet on the demo's generated scenes. Ours.
_base_ = './siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512.py'

crop_size = (64, 64)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        img_size=crop_size, patch_size=8, embed_dims=128, num_layers=4,
        num_heads=4, drop_path_rate=0.0, out_indices=(0, 1, 2, 3)),
    neck=dict(embed_dim=128),
    decode_head=dict(num_classes=14, in_channels=[128, 128, 128, 128],
                     pool_scales=(1, 2), channels=64),
    auxiliary_head=dict(num_classes=14, in_channels=128, channels=64),
    test_cfg=dict(crop_size=crop_size, stride=(42, 42)))
train_pipeline = [
    _base_.load,
    _base_.load_labels,
    dict(type='RandomResize', scale=(256, 64), ratio_range=(1.0, 2.0),
         keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=(256, 64), keep_ratio=True),
    _base_.load_labels,
    _base_.pack,
]
scenes = dict(
    type='CheckedSegDataset', data_root='data/demo', reduce_zero_label=True,
    metainfo=dict(classes=(
        'ball', 'box', 'starfish', 'wheel', 'tent', 'blossom', 'windmill',
        'moon', 'sand', 'water', 'tiles', 'grass', 'wood', 'sky')))
train_dataloader = dict(
    batch_size=16, num_workers=1,
    dataset=dict(
        scenes, pipeline=train_pipeline,
        data_prefix=dict(img_path='train', seg_map_path='label_maps/train')))
test_dataloader = dict(
    num_workers=1,
    dataset=dict(
        scenes, pipeline=test_pipeline,
        data_prefix=dict(img_path='val', seg_map_path='label_maps/val')))
val_dataloader = test_dataloader
optim_wrapper = dict(
    optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=0.75))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False,
         begin=0, end=20),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False,
         begin=20, end=200),
]
train_cfg = dict(max_iters=200, val_interval=200)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=200))
