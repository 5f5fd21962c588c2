# ImageNet-C: the unchanged ViT-Ti/16 fine-tuned on ImageNet-1k.
_base_ = (
    '../classification/'
    'siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py')

model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.0),
    head=dict(in_channels=192))
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
