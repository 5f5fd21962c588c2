# ImageNet-R: the unchanged ViT-S/16 fine-tuned on ImageNet-1k. Quote
# top1_200way.
_base_ = './siamese_im_vit-base-p16_in1k-r.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    head=dict(in_channels=384))
