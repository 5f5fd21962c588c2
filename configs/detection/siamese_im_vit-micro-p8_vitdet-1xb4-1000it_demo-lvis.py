# The demo's scenes with their long-tailed LVIS annotations. Our recipe.
_base_ = './siamese_im_vit-micro-p8_vitdet-1xb4-1000it_demo.py'

shapes = ['disc', 'square', 'star', 'ring', 'triangle', 'flower', 'cross',
          'crescent']
textures = ['striped', 'checked', 'ringed', 'speckled', 'plain', 'dotted']
classes = [f'{texture}_{shape}' for shape in shapes for texture in textures]
num_classes = len(classes)
model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=num_classes,
            loss_cls=dict(
                _delete_=True, type='FederatedLoss', num_classes=num_classes,
                ann_file='data/demo/annotations/lvis_v1_train.json',
                num_sampled=16)),
        mask_head=dict(num_classes=num_classes)),
    test_cfg=dict(rcnn=dict(score_thr=0.02, max_per_img=300)))

train_dataloader = dict(
    sampler=dict(_delete_=True, type='RepeatFactorSampler', threshold=0.02),
    dataset=dict(
        type='CheckedLVISDataset', metainfo=dict(classes=classes),
        ann_file='annotations/lvis_v1_train.json'))
val_dataloader = dict(
    dataset=dict(
        type='CheckedLVISDataset', metainfo=dict(classes=classes),
        ann_file='annotations/lvis_v1_val.json'))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='NumPy2LVISMetric',
    ann_file='data/demo/annotations/lvis_v1_val.json')
test_evaluator = val_evaluator
