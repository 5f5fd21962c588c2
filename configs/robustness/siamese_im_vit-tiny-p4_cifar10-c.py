# CIFAR-10's test set, corrupted by tools/make_corruptions.py: accuracies only,
# at ImageNet-C's strengths, which are not CIFAR-10-C's. Our protocol.
_base_ = ('../classification/'
          'siamese_im_vit-tiny-p4_ft-1xb128-amp-coslr-50e_cifar10.py')

test_pipeline = [
    _base_.load,
    dict(type='PackInputs', meta_keys=('corruption', 'severity')),
]
test_dataloader = dict(
    dataset=dict(_delete_=True, type='CorruptedFolder',
                 data_root='data/cifar10-c',
                 pipeline=test_pipeline))
test_evaluator = dict(
    _delete_=True, type='CorruptionAccuracy', prefix='cifar10-c')
