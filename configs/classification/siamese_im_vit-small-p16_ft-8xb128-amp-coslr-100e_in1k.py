# Fine-tuning on ImageNet-1k, ViT-S/16. Our recipe: that of ViT-B with another
# layer decay.
_base_ = './siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    head=dict(in_channels=384))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75))
