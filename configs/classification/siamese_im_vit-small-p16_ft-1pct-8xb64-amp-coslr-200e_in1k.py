# Fine-tuning on 1 % of ImageNet-1k, ViT-S/16. Our recipe.
_base_ = './siamese_im_vit-base-p16_ft-1pct-8xb64-amp-coslr-200e_in1k.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    head=dict(in_channels=384))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75))
