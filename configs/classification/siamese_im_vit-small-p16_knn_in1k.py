# kNN on frozen features, ViT-S/16.
_base_ = './siamese_im_vit-base-p16_knn_in1k.py'

model = dict(backbone=dict(arch='small'))
