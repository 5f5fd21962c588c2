# Fine-tuning on ImageNet-1k, ViT-H/14: as in MMPretrain's MAE benchmark.
_base_ = './siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py'

model = dict(
    backbone=dict(arch='huge', patch_size=14, drop_path_rate=0.3),
    head=dict(in_channels=1280))
optim_wrapper = dict(
    optimizer=dict(lr=1e-3 * 1024 / 256),
    paramwise_cfg=dict(layer_decay_rate=0.75))
train_cfg = dict(max_epochs=50)
