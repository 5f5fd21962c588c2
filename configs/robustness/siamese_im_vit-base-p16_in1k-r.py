# ImageNet-R: the unchanged classifier fine-tuned on ImageNet-1k. Quote
# top1_200way, the argmax over the 200 classes of ImageNet-R.
_base_ = ('../classification/'
          'siamese_im_vit-base-p16_ft-8xb128-amp-coslr-100e_in1k.py')

test_dataloader = dict(
    dataset=dict(_delete_=True, type='ImageNetR', data_root='data/imagenet-r',
                 pipeline=_base_.test_dataloader.dataset.pipeline))
test_evaluator = dict(
    _delete_=True, type='SubsetAccuracy', prefix='imagenet-r')
