# UPerNet on ADE20k, ViT-Ti/16. Our recipe: that of ViT-B.
_base_ = './siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.0),
    neck=dict(embed_dim=192),
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=192),
    auxiliary_head=dict(in_channels=192))
