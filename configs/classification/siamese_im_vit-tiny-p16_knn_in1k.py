# kNN on frozen features, ViT-Ti/16.
_base_ = [
    './siamese_im_vit-base-p16_knn_in1k.py',
    '../_base_/vit_tiny.py',
]

model = dict(backbone=dict(arch=dict(_base_.tiny, _delete_=True)))
