# LVIS v1, ViT-B/16, 100 epochs, the recipe of Detectron2's ViTDet: 1203
# classes, federated loss, repeat-factor sampling, twice the lr of COCO.
_base_ = ['../_base_/detection_vitdet.py', '../_base_/runtime.py']

# Model
model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=1203,
            loss_cls=dict(
                _delete_=True, type='FederatedLoss', num_classes=1203,
                ann_file='data/lvis_v1/annotations/lvis_v1_train.json',
                num_sampled=50, power=0.5)),
        mask_head=dict(num_classes=1203)),
    test_cfg=dict(rcnn=dict(score_thr=0.02, max_per_img=300)))

# Data: annotations/ next to COCO's image folders train2017/ and val2017/
data_root = 'data/lvis_v1/'
train_dataloader = dict(
    sampler=dict(_delete_=True, type='RepeatFactorSampler', threshold=0.001),
    dataset=dict(
        type='CheckedLVISDataset',
        data_root=data_root,
        ann_file='annotations/lvis_v1_train.json',
        data_prefix=dict(img='')))
val_dataloader = dict(
    dataset=dict(
        type='CheckedLVISDataset',
        data_root=data_root,
        ann_file='annotations/lvis_v1_val.json',
        data_prefix=dict(img='')))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='NumPy2LVISMetric',
    ann_file=data_root + 'annotations/lvis_v1_val.json',
    metric=['bbox', 'segm'])
test_evaluator = val_evaluator

# Optimisation
train_cfg = dict(max_iters=156250, val_interval=20000)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [
    _base_.warmup,
    dict(type='MultiStepLR', milestones=[138889, 150463], by_epoch=False),
]
