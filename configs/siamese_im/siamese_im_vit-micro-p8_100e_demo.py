# An encoder of the demo's scenes for segmentation and detection. The jitter
# changes every hue: nearly every patch shows the hues of its scene, and if the
# views keep them, the patches of an image become alike (docs/results.md).
# Our recipe.
_base_ = './siamese_im_vit-micro-p8_demo.py'

colour = [
    dict(type='FastColorJitter',
         brightness=0.3, contrast=0.3, saturation=0.5, hue=0.5),
    dict(type='FastGrayscale', prob=0.2),
]
views = dict(_base_.views, crop_scale=(0.5, 1.0), online=colour, target=colour)
train_pipeline = [_base_.load, views, _base_.mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(warmup=5)
train_cfg = dict(max_epochs=100)
momentum_hook = dict(type='MomentumHook', base_momentum=0.99)
custom_hooks = [momentum_hook, *_base_.watching_hooks]
