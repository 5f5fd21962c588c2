# COCO, ViT-L/16, 100 epochs.
_base_ = ['../_base_/detection_vitdet.py', '../_base_/runtime.py']

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.4),
    neck=dict(in_channels=1024))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
