# COCO, ViT-S/16, 100 epochs. Our recipe: that of ViT-B.
_base_ = [
    './siamese_im_vit-base-p16_vitdet-16xb4-amp-100e_coco.py',
    '../_base_/vit_small.py',
]

model = dict(
    backbone=dict(
        arch=dict(_base_.small, global_attn_indexes=[2, 5, 8, 11],
                  _delete_=True),
        drop_path_rate=0.1),
    neck=dict(in_channels=384))
