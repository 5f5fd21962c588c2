# ViT-S/16 on any folder of images with one GPU, at half of the cost:
# views of 112 px in the first two thirds of the iterations. Our recipe.
_base_ = './siamese_im_vit-small-p16_1xb256-accum4-amp-coslr-400e_folder.py'

custom_hooks = [*_base_.custom_hooks, dict(type='SmallViewsFirst')]
