# ViT-L/16. No source gives its decoder width and lr: we take ViT-B's.
_base_ = ['../_base_/siamese_im.py', '../_base_/runtime.py']

model = dict(
    backbone=dict(arch='large'),
    projector=dict(in_dims=1024))
train_dataloader = dict(batch_size=128)
