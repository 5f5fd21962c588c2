# kNN on frozen features, ViT-S/16.
_base_ = [
    './siamese_im_vit-base-p16_knn_in1k.py',
    '../_base_/vit_small.py',
]

model = dict(backbone=dict(arch=dict(_base_.small, _delete_=True)))
