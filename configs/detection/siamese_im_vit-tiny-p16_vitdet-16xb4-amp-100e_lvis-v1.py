# LVIS v1, ViT-Ti/16, 100 epochs. Our recipe: that of ViT-B.
_base_ = [
    './siamese_im_vit-base-p16_vitdet-16xb4-amp-100e_lvis-v1.py',
    '../_base_/vit_tiny.py',
]

model = dict(
    backbone=dict(
        arch=dict(_base_.tiny, global_attn_indexes=[2, 5, 8, 11],
                  _delete_=True),
        drop_path_rate=0.0),
    neck=dict(in_channels=192))
