# Continue DINOv2 (ViT-S/14, without registers) on any folder of images with
# one GPU, 1024 per optimizer step. Our recipe; it has not been run.
#   --pretrained FILE --cfg-options train_dataloader.dataset.data_root=DIR
# Encoders of other families need other options: docs/encoders.md.
_base_ = './siamese_im_vit-small-p16_1xb256-accum4-amp-coslr-400e_folder.py'

grid = (16, 16)
model = dict(
    pretrained='work_dirs/dinov2_vits14_pretrain.pth',
    backbone=dict(
        patch_size=14, layer_scale_init_value=1.0, final_norm=True),
    neck=dict(grid=grid))
mask = dict(_base_.mask, grid=grid, num_masked=154)
train_pipeline = [_base_.load, _base_.views, mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# A tenth of the learning rate from scratch, a slower target, and an encoder
# that waits for the new parts
optim_wrapper = dict(optimizer=dict(lr=6.25e-6 * 4096 / 256))
param_scheduler = dict(warmup=5)
train_cfg = dict(max_epochs=100, fit_accumulation=True)
momentum_hook = dict(_base_.momentum_hook, base_momentum=0.999)
custom_hooks = [
    momentum_hook,
    dict(type='HoldBackboneHook', epochs=5),
    *_base_.watching_hooks,
    dict(type='OnlineMatches', interval=10)]
