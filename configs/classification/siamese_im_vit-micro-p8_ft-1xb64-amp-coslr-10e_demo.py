# Fine-tuning on the demo's generated scenes. Our recipe.
_base_ = [
    '../_base_/imagenet_classifier.py',
    '../_base_/finetuning.py',
    '../_base_/vit_micro.py',
    '../_base_/runtime.py',
]

model = dict(
    data_preprocessor=dict(num_classes=8),
    backbone=dict(
        _base_.finetuned, arch=dict(_base_.micro, _delete_=True),
        img_size=64, patch_size=8, drop_path_rate=0.0),
    head=dict(_base_.head, num_classes=8, in_channels=128),
    train_cfg=None)
train_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/RandomResizedCrop',
         size=64, scale=(0.5, 1.0), interpolation='bicubic'),
    dict(type='torchvision/RandomHorizontalFlip'),
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/Resize', size=64, interpolation='bicubic'),
    dict(type='torchvision/CenterCrop', size=64),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=64, num_workers=1,
    dataset=dict(data_root='data/demo/train', pipeline=train_pipeline))
test_dataloader = dict(
    _base_.test_dataloader, num_workers=1,
    dataset=dict(type='LabelledFolder', data_root='data/demo/val',
                 pipeline=test_pipeline))
val_dataloader = test_dataloader
optim_wrapper = dict(
    optimizer=dict(lr=4e-3 * 64 / 256),
    paramwise_cfg=dict(layer_decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=64)
param_scheduler = dict(warmup=1)
train_cfg = dict(max_epochs=10)
default_hooks = dict(logger=dict(interval=10))
