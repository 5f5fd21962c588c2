# Linear segmentation of frozen patch features, ADE20k, ViT-S/16. Our recipe.
_base_ = [
    './siamese_im_vit-base-p16_seg-linear-8xb2-amp-40k_ade20k-512x512.py',
    '../_base_/vit_small.py',
]

model = dict(
    backbone=dict(arch=dict(_base_.small, _delete_=True)),
    decode_head=dict(in_channels=384))
