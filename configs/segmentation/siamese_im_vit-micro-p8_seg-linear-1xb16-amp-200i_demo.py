# Linear segmentation of frozen patch features, the demo's scenes. Our recipe.
_base_ = './siamese_im_vit-micro-p8_upernet-1xb16-amp-200i_demo.py'

model = dict(
    backbone=dict(
        _delete_=True, type='mmpretrain.SiameseIMViT', arch=_base_.micro,
        img_size=64, patch_size=8, out_type='featmap', frozen_stages=4,
        pretrained=None),
    neck=None,
    decode_head=dict(
        _delete_=True, type='LinearSegHead', num_classes=14,
        in_channels=128, in_index=-1, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    auxiliary_head=None)
optim_wrapper = dict(
    _delete_=True, type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-2 * 16 / 16, weight_decay=1e-4))
