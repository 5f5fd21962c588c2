# COCO, ViT-B/16, 25 epochs: the schedule of the paper's ablations.
_base_ = ['../_base_/detection_vitdet.py', '../_base_/runtime.py']

train_cfg = dict(max_iters=46094)
param_scheduler = [
    _base_.warmup,
    dict(type='MultiStepLR', milestones=[40972, 44387], by_epoch=False),
]
