# Boxes without masks on a handful of COCO photographs, at 256 px. Our recipe.
_base_ = './siamese_im_vit-micro-p16_vitdet-1xb2-600it_coco-tiny-256x256.py'

# Model
model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    roi_head=dict(mask_roi_extractor=None, mask_head=None))

# Data
annotate = dict(_base_.annotate, with_mask=False)
train_pipeline = [
    annotate if step == _base_.annotate else step
    for step in _base_.train_pipeline
]
test_pipeline = [
    annotate if step == _base_.annotate else step
    for step in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
