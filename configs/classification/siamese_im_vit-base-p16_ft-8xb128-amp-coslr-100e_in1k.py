# Fine-tuning on ImageNet-1k, ViT-B/16: the recipe of the released code.
_base_ = [
    '../_base_/imagenet_classifier.py',
    '../_base_/finetuning.py',
    '../_base_/deit_augmentation.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(_base_.finetuned, drop_path_rate=0.1),
    head=dict(_base_.head, num_classes=1000, in_channels=768),
    train_cfg=dict(augments=_base_.mixes))

train_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/RandomResizedCrop',
         size=224, scale=(0.08, 1.0), interpolation='bicubic'),
    dict(type='torchvision/RandomHorizontalFlip'),
    *_base_.deit_augmentation,
    _base_.pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = _base_.test_dataloader
