# ImageNet-A: the unchanged ViT-Ti/16 fine-tuned on ImageNet-1k. Quote
# top1_200way.
_base_ = './siamese_im_vit-base-p16_in1k-a.py'

model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.0),
    head=dict(in_channels=192))
