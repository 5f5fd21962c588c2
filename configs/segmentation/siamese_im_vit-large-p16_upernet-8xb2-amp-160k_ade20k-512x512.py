# UPerNet on ADE20k, ViT-L/16. Our recipe: that of ViT-B with the output blocks
# of MMSegmentation's BEiT-L and ViT-L's layer decay and drop path on ImageNet.
_base_ = './siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='large', drop_path_rate=0.2, out_indices=(7, 11, 15, 23)),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024, 1024, 1024, 1024], channels=1024),
    auxiliary_head=dict(in_channels=1024))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75))
