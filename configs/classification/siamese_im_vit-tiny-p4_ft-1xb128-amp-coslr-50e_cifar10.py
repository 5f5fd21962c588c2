# Fine-tuning on CIFAR-10. Our recipe.
_base_ = [
    '../_base_/imagenet_classifier.py',
    '../_base_/finetuning.py',
    '../_base_/runtime.py',
]

model = dict(
    data_preprocessor=dict(num_classes=10),
    backbone=dict(_base_.finetuned, arch='deit-tiny', img_size=32,
                  patch_size=4, drop_path_rate=0.1),
    head=dict(_base_.head, num_classes=10, in_channels=192),
    train_cfg=dict(augments=_base_.mixes))
train_pipeline = [
    _base_.to_pil,
    dict(type='torchvision/RandomCrop', size=32, padding=4),
    dict(type='torchvision/RandomHorizontalFlip'),
    _base_.pack,
]
test_pipeline = [_base_.pack]
train_dataloader = dict(
    dataset=dict(_delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
                 split='train', pipeline=train_pipeline))
test_dataloader = dict(
    _base_.test_dataloader,
    dataset=dict(type='LocalCIFAR10', data_root='data/cifar10',
                 split='test', pipeline=test_pipeline))
val_dataloader = test_dataloader
optim_wrapper = dict(
    optimizer=dict(lr=1e-3 * 128 / 256),
    paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=128)
train_cfg = dict(max_epochs=50)
