# An encoder of the demo's scenes for segmentation and detection. All hues are
# turned: nearly every patch tells those of its scene, and while views keep
# them the patches of an image grow alike. Ours (docs/segmentation.md).
_base_ = './siamese_im_vit-micro-p8_demo.py'

colour = [
    dict(type='FastColorJitter',
         brightness=0.3, contrast=0.3, saturation=0.5, hue=0.5),
    dict(type='FastGrayscale', prob=0.2),
]
train_pipeline = [
    _base_.load,
    dict(type='PairedViews', size=64, crop_scale=(0.5, 1.0),
         online=colour, target=colour),
    *_base_.train_pipeline[2:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(warmup=5)
train_cfg = dict(max_epochs=100)
custom_hooks = [
    dict(type='MomentumHook', base_momentum=0.99), *_base_.custom_hooks[1:]]
