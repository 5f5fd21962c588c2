# The paper's `1 %`: logistic regression on the frozen cls token, with the
# penalty of the released code. The list names 12,811 training images.
_base_ = [
    '../_base_/imagenet_classifier.py',
    '../_base_/frozen_features.py',
    '../_base_/runtime.py',
]

model = dict(backbone=dict(out_type='raw'), head=None)
test_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/Resize', size=256, interpolation='bilinear'),
    dict(type='torchvision/CenterCrop', size=224),
    _base_.pack,
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_cfg = dict(
    train_dataloader=dict(dataset=dict(
        list_file='data/imagenet/1percent.txt', pipeline=test_pipeline)),
    classifier=dict(type='LogisticClassifier', l2=None),  # 0.1 / images
    pool='cls')
