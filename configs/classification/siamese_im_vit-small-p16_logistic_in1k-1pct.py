# Logistic regression on 1 % of ImageNet-1k, ViT-S/16.
_base_ = './siamese_im_vit-base-p16_logistic_in1k-1pct.py'

model = dict(backbone=dict(arch='small'))
