# UPerNet, an integration test on a handful of ADE20k pairs. Our recipe.
_base_ = './siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py'

crop_size = (128, 128)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(img_size=crop_size, patch_size=16),
    decode_head=dict(num_classes=150),
    auxiliary_head=None,  # halves the time
    test_cfg=dict(crop_size=crop_size, stride=(85, 85)))
train_pipeline = [
    _base_.load,
    _base_.load_labels,
    dict(type='RandomResize', scale=(512, 128), ratio_range=(1.0, 1.5),
         keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=(512, 128), keep_ratio=True),
    _base_.load_labels,
    _base_.pack,
]
pairs = dict(type='CheckedADE20KDataset',
             data_root='data/ade_tiny/ADEChallengeData2016')
train_dataloader = dict(
    batch_size=6,
    dataset=dict(
        pairs, _delete_=True, pipeline=train_pipeline,
        data_prefix=dict(img_path='images/training',
                         seg_map_path='annotations/training')))
test_dataloader = dict(
    dataset=dict(
        pairs, _delete_=True, pipeline=test_pipeline,
        data_prefix=dict(img_path='images/validation',
                         seg_map_path='annotations/validation')))
val_dataloader = test_dataloader
auto_scale_lr = dict(base_batch_size=6)
optim_wrapper = dict(optimizer=dict(lr=4e-3 * 6 / 6))
