# UPerNet on ADE20k, ViT-S/16. Our recipe: that of ViT-B.
_base_ = './siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=384),
    auxiliary_head=dict(in_channels=384))
