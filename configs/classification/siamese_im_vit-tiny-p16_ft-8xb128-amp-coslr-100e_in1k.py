# Fine-tuning on ImageNet-1k, ViT-Ti/16. Our recipe: that of ViT-B with another
# layer decay and without drop path.
_base_ = './siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py'

model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.0),
    head=dict(in_channels=192))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75))
