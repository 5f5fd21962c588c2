# kNN segmentation by frozen patch features, ADE20k, ViT-S/16. Our recipe.
_base_ = './siamese_im_vit-base-p16_seg-knn_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='small'),
    decode_head=dict(in_channels=384))
