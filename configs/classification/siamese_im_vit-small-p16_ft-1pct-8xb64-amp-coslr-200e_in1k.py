# Fine-tuning on 1 % of ImageNet-1k, ViT-S/16. Our recipe.
_base_ = './siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    head=dict(in_channels=384))
train_dataloader = dict(
    batch_size=64, dataset=dict(list_file='data/imagenet/1percent.txt'))
optim_wrapper = dict(
    optimizer=dict(lr=2.5e-4 * 512 / 256),
    paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=512)
train_cfg = dict(max_epochs=200, val_interval=10)
