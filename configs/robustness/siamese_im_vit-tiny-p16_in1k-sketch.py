# ImageNet-Sketch: the unchanged ViT-Ti/16 fine-tuned on ImageNet-1k.
_base_ = (
    '../classification/'
    'siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py')

model = dict(
    backbone=dict(arch='tiny', drop_path_rate=0.0),
    head=dict(in_channels=192))
test_dataloader = dict(
    dataset=dict(_delete_=True, type='ImageNetSketch',
                 data_root='data/imagenet-sketch',
                 pipeline=_base_.test_dataloader.dataset.pipeline))
test_evaluator = dict(prefix='imagenet-sketch')
