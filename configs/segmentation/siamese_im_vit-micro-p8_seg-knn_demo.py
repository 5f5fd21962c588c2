# kNN segmentation by frozen patch features on the demo's scenes. Our protocol.
_base_ = [
    './siamese_im_vit-base-p16_seg-knn_ade20k-512x512.py',
    '../_base_/vit_micro.py',
]

crop_size = (64, 64)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        arch=dict(_base_.micro, _delete_=True), img_size=64, patch_size=8),
    decode_head=dict(num_classes=14, in_channels=128),
    test_cfg=dict(crop_size=crop_size, stride=(42, 42)))
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=(256, 64), keep_ratio=True),
    _base_.load_labels,
    _base_.pack,
]
memory_pipeline = [
    _base_.load,
    _base_.load_labels,
    dict(type='Resize', scale=(256, 64), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    _base_.pack,
]
scenes = dict(
    type='CheckedSegDataset', data_root='data/demo', reduce_zero_label=True,
    metainfo=dict(classes=(
        'ball', 'box', 'starfish', 'wheel', 'tent', 'blossom', 'windmill',
        'moon', 'sand', 'water', 'tiles', 'grass', 'wood', 'sky')))
test_dataloader = dict(
    num_workers=1,
    dataset=dict(
        scenes, pipeline=test_pipeline,
        data_prefix=dict(img_path='val', seg_map_path='label_maps/val')))
test_cfg = dict(
    train_dataloader=dict(
        batch_size=64, num_workers=1,
        dataset=dict(
            scenes, pipeline=memory_pipeline,
            data_prefix=dict(img_path='train',
                             seg_map_path='label_maps/train'))))
