# ViT-S/16 on any folder of images with one GPU, 1024 per optimizer step.
# Our recipe: that of ViT-B with a decoder of the encoder's width.
_base_ = [
    '../_base_/siamese_im.py',
    '../_base_/runtime.py',
]

custom_imports = dict(
    imports=['simim_plugin.evaluation'], allow_failed_imports=False)

model = dict(
    backbone=dict(arch='small'),
    projector=dict(in_dims=384, embed_dims=384, num_heads=6),
    neck=dict(embed_dims=384, num_heads=6),
    head=dict(negative_weight=0.02 * 768 / 384))  # docs/pretraining.md
optim_wrapper = dict(accumulative_counts=4)
train_dataloader = dict(
    batch_size=256, dataset=dict(data_root='data/images', held_out=32))
train_cfg = dict(max_epochs=400, fit_accumulation=True)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='OnlineMatches', interval=10),  # docs/monitors.md
]
