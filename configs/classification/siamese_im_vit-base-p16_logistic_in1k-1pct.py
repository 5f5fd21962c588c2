# The `1 %` of the paper: logistic regression on the frozen cls token, by the
# rule of the released code. The list names 12,811 training images.
_base_ = '../_base_/imagenet_classifier.py'

model = dict(backbone=dict(out_type='raw'), head=None)
test_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/Resize', size=256, interpolation='bilinear'),
    dict(type='torchvision/CenterCrop', size=224),
    _base_.pack,
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_evaluator = []  # the classifier counts
test_cfg = dict(
    type='FrozenFeatureLoop',
    train_dataloader=dict(
        batch_size=128,
        num_workers=8,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='LabelledFolder', data_root='data/imagenet/train',
                     list_file='data/imagenet/1percent.txt',
                     pipeline=test_pipeline)),
    classifier=dict(type='LogisticClassifier', l2=None),  # 0.1 / images
    pool='cls')
