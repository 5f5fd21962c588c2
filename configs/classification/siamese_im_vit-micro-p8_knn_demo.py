# kNN on frozen features of the demo. Our protocol.
_base_ = [
    '../_base_/imagenet_classifier.py',
    '../_base_/frozen_features.py',
    '../_base_/vit_micro.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(
        arch=dict(_base_.micro, _delete_=True), img_size=64, patch_size=8,
        out_type='raw'),
    head=None)
test_pipeline = [
    _base_.load,
    _base_.to_pil,
    dict(type='torchvision/Resize', size=64, interpolation='bicubic'),
    dict(type='torchvision/CenterCrop', size=64),
    _base_.pack,
]
test_dataloader = dict(
    num_workers=1,
    dataset=dict(data_root='data/demo/val', pipeline=test_pipeline))
test_cfg = dict(
    train_dataloader=dict(
        num_workers=1,
        dataset=dict(data_root='data/demo/train', pipeline=test_pipeline)),
    classifier=dict(type='KNNClassifier', ks=(10, 20, 100, 200),
                    temperature=0.07),
    pool='mean')
