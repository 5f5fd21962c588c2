# Linear probing on ImageNet-1k, ViT-S/16, by the recipe of ViT-B.
_base_ = './siamese_im_vit-base-p16_linear-8xb2048-amp-coslr-90e_in1k.py'

model = dict(
    backbone=dict(arch='small'),
    head=dict(in_channels=384))
