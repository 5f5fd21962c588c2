# ImageNet-C: the unchanged classifier fine-tuned on ImageNet-1k. The
# paper reports 100-mCE.
_base_ = ('../classification/'
          'siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py')

# The images are 224 x 224 pixels
test_pipeline = [
    _base_.load,
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs', meta_keys=('corruption', 'severity')),
]
test_dataloader = dict(
    dataset=dict(_delete_=True, type='ImageNetC', data_root='data/imagenet-c',
                 pipeline=test_pipeline))
test_evaluator = dict(
    _delete_=True, type='CorruptionError', prefix='imagenet-c')
