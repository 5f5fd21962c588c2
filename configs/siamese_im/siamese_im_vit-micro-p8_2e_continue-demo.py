# Continue an encoder of the demo's scenes (docs/encoders.md): the new parts
# learn as from scratch while the encoder waits, then it follows at a tenth of
# their learning rate. Our recipe.
_base_ = './siamese_im_vit-micro-p8_demo.py'

model = dict(pretrained='work_dirs/demo/encoder.pth')
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
param_scheduler = dict(warmup=0.5)
train_cfg = dict(max_epochs=2)
custom_hooks = [
    _base_.momentum_hook,
    dict(type='HoldBackboneHook', epochs=1),
    *_base_.watching_hooks]
