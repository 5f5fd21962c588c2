# Fine-tuning on ImageNet-1k, ViT-B/16: the recipe of the released code.
_base_ = [
    '../_base_/imagenet_classifier.py',
    '../_base_/finetuning.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(_base_.finetuned, drop_path_rate=0.1),
    head=dict(_base_.head, num_classes=1000, in_channels=768),
    train_cfg=dict(augments=_base_.mixes))

# RandAugment (rand-m9-mstd0.5-inc1) and erasing work in BGR
train_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/RandomResizedCrop',
         size=224, scale=(0.08, 1.0), interpolation='bicubic'),
    dict(type='torchvision/RandomHorizontalFlip'),
    dict(type='PILToNumpy', to_bgr=True),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2,
         magnitude_level=9, magnitude_std=0.5,
         hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand',
         min_area_ratio=0.02, max_area_ratio=1 / 3,
         fill_color=[103.53, 116.28, 123.675],
         fill_std=[57.375, 57.12, 58.395]),
    dict(type='NumpyToPIL', to_rgb=True),
    _base_.pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = _base_.test_dataloader
