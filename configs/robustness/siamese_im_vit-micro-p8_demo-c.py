# The demo's scenes, corrupted by tools/make_corruptions.py: accuracies only.
# Our protocol.
_base_ = ('../classification/'
          'siamese_im_vit-micro-p8_ft-1xb64-amp-coslr-10e_demo.py')

test_pipeline = [
    _base_.load,
    dict(type='PackInputs', meta_keys=('corruption', 'severity')),
]
test_dataloader = dict(
    dataset=dict(_delete_=True, type='CorruptedFolder',
                 data_root='data/demo-c',
                 pipeline=test_pipeline))
test_evaluator = dict(
    _delete_=True, type='CorruptionAccuracy', prefix='demo-c')
