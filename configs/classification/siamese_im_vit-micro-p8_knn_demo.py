# kNN on frozen features of the demo. Ours.
_base_ = './siamese_im_vit-base-p16_knn_in1k.py'

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=128, num_layers=4, num_heads=4,
                  feedforward_channels=512),
        img_size=64, patch_size=8))
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
test_cfg = dict(train_dataloader=dict(
    num_workers=1,
    dataset=dict(data_root='data/demo/train', pipeline=test_pipeline)))
