# ViT-B/16 on ImageNet-1k, at half of the cost:
# views of 112 px in the first two thirds of the iterations. Our recipe.
_base_ = './siamese_im_vit-base-p16_8xb512-amp-coslr-400e_in1k.py'

custom_hooks = [*_base_.custom_hooks, dict(type='SmallViewsFirst')]
