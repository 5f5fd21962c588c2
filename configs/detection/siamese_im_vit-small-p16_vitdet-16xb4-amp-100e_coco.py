# COCO, ViT-S/16, 100 epochs. Our recipe: that of ViT-B.
_base_ = './siamese_im_vit-base-p16_vitdet-16xb4-amp-100e_coco.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    neck=dict(in_channels=384))
