# Linear probing on CIFAR-10. Our recipe.
_base_ = './siamese_im_vit-base-p16_linear-8xb2048-amp-coslr-90e_in1k.py'

model = dict(
    data_preprocessor=dict(num_classes=10),
    backbone=dict(arch='deit-tiny', img_size=32, patch_size=4),
    head=dict(num_classes=10, in_channels=192))
train_pipeline = [
    dict(type='SingleDrawCrop', scale=32, crop_ratio_range=(0.5, 1.0),
         interpolation='bicubic', backend='pillow'),
    dict(type='RandomFlip', prob=0.5),
    _base_.pack,
]
test_pipeline = [_base_.pack]
train_dataloader = dict(
    batch_size=512,
    dataset=dict(_delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
                 split='train', pipeline=train_pipeline))
test_dataloader = dict(
    dataset=dict(_delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
                 split='test', pipeline=test_pipeline))
val_dataloader = test_dataloader
optim_wrapper = dict(optimizer=dict(lr=3.2 * 512 / 256))
auto_scale_lr = dict(base_batch_size=512)
train_cfg = dict(max_epochs=50)
