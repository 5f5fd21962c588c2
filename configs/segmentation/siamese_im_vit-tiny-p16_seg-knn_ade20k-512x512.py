# kNN segmentation by frozen patch features, ADE20k, ViT-Ti/16. Our recipe.
_base_ = './siamese_im_vit-base-p16_seg-knn_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='tiny'),
    decode_head=dict(in_channels=192))
