# kNN on frozen features of CIFAR-10. Ours.
_base_ = './siamese_im_vit-base-p16_knn_in1k.py'

model = dict(backbone=dict(arch='deit-tiny', img_size=32, patch_size=4))
test_pipeline = [_base_.pack]
test_dataloader = dict(
    dataset=dict(_delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
                 split='test', pipeline=test_pipeline))
test_cfg = dict(train_dataloader=dict(
    dataset=dict(_delete_=True, type='LocalCIFAR10', data_root='data/cifar10',
                 split='train', pipeline=test_pipeline)))
