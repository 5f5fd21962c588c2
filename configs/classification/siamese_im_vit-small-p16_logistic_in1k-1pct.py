# Logistic regression on 1 % of ImageNet-1k, ViT-S/16.
_base_ = [
    './siamese_im_vit-base-p16_logistic_in1k-1pct.py',
    '../_base_/vit_small.py',
]

model = dict(backbone=dict(arch=dict(_base_.small, _delete_=True)))
