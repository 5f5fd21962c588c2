# Fine-tuning on 1 % of ImageNet-1k. Our protocol; it does not compare with the
# paper's `1 %`, which is logistic regression (..._logistic_in1k-1pct.py).
_base_ = './siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py'

train_dataloader = dict(
    batch_size=64, dataset=dict(list_file='data/imagenet/1percent.txt'))
optim_wrapper = dict(optimizer=dict(lr=2.5e-4 * 512 / 256))
auto_scale_lr = dict(base_batch_size=512)
train_cfg = dict(max_epochs=200, val_interval=10)
