# ImageNet-A: the unchanged ViT-S/16 fine-tuned on ImageNet-1k. Quote
# top1_200way.
_base_ = (
    '../classification/'
    'siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py')

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.1),
    head=dict(in_channels=384))
test_dataloader = dict(
    dataset=dict(_delete_=True, type='ImageNetA', data_root='data/imagenet-a',
                 pipeline=_base_.test_dataloader.dataset.pipeline))
test_evaluator = dict(
    _delete_=True, type='SubsetAccuracy', prefix='imagenet-a')
