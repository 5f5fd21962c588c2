# The same photographs with LVIS annotations: annotations/ next to COCO's image
# folders. Our recipe.
_base_ = './siamese_im_vit-micro-p16_vitdet-1xb2-600it_coco-tiny-256x256.py'

data_root = 'data/lvis_tiny/'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=1203,
            loss_cls=dict(
                _delete_=True, type='FederatedLoss', num_classes=1203,
                ann_file=data_root + 'annotations/lvis_v1_train_tiny.json')),
        mask_head=dict(num_classes=1203)),
    test_cfg=dict(rcnn=dict(score_thr=0.02, max_per_img=300)))

train_dataloader = dict(
    sampler=dict(_delete_=True, type='RepeatFactorSampler', threshold=0.001),
    dataset=dict(
        type='CheckedLVISDataset', data_root=data_root,
        ann_file='annotations/lvis_v1_train_tiny.json',
        data_prefix=dict(img='')))
val_dataloader = dict(
    dataset=dict(
        type='CheckedLVISDataset', data_root=data_root,
        ann_file='annotations/lvis_v1_val_tiny.json',
        data_prefix=dict(img='')))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='NumPy2LVISMetric',
    ann_file=data_root + 'annotations/lvis_v1_val_tiny.json')
test_evaluator = val_evaluator
