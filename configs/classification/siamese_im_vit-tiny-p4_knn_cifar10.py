# kNN on frozen features of CIFAR-10. Our protocol.
_base_ = [
    '../_base_/imagenet_classifier.py',
    '../_base_/frozen_features.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        arch='deit-tiny', img_size=32, patch_size=4, out_type='raw'),
    head=None)
test_pipeline = [_base_.pack]
test_dataloader = dict(
    dataset=dict(_delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
                 split='test', pipeline=test_pipeline))
test_cfg = dict(
    train_dataloader=dict(dataset=dict(
        _delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
        split='train', pipeline=test_pipeline)),
    classifier=dict(type='KNNClassifier', ks=(10, 20, 100, 200),
                    temperature=0.07),
    pool='mean')
