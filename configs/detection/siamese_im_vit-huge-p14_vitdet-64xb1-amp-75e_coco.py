# COCO, ViT-H, 75 epochs. Pretraining has patches of 14 pixels at 224; here the
# kernels are resized to 16 pixels, and the position table has the same size.
_base_ = ['../_base_/detection_vitdet.py', '../_base_/runtime.py']

model = dict(
    backbone=dict(
        arch='huge', pretrain_img_size=256, drop_path_rate=0.5, with_cp=True),
    neck=dict(in_channels=1280))
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
train_cfg = dict(max_iters=138281)
param_scheduler = [
    _base_.warmup,
    dict(type='MultiStepLR', milestones=[122916, 133159], by_epoch=False),
]
