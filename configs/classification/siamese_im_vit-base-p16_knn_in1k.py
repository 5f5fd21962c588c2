# kNN on frozen features, the mean of the patches. Quote k = 20.
_base_ = [
    '../_base_/imagenet_classifier.py',
    '../_base_/frozen_features.py',
    '../_base_/runtime.py',
]

model = dict(backbone=dict(out_type='raw'), head=None)
test_cfg = dict(
    train_dataloader=dict(dataset=dict(pipeline=_base_.test_pipeline)),
    classifier=dict(type='KNNClassifier', ks=(10, 20, 100, 200),
                    temperature=0.07),
    pool='mean')
