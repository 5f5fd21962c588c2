# kNN segmentation by frozen patch features, ADE20k, ViT-B/16. Our protocol.
_base_ = ['../_base_/segmentation_ade20k.py', '../_base_/runtime.py']

model = dict(
    backbone=dict(
        type='mmpretrain.SiameseIMViT', arch='base',
        img_size=_base_.crop_size, patch_size=16, out_type='featmap'),
    decode_head=dict(
        type='KNNSegHead', num_classes=150, in_channels=768, in_index=-1,
        align_corners=False, k=20, temperature=0.07))

# The memory holds one crop of each training image, without random scaling
memory_pipeline = [
    _base_.load,
    _base_.load_labels,
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='RandomCrop', crop_size=_base_.crop_size),
    _base_.pack,
]
test_cfg = dict(
    type='KNNSegLoop',
    patches_per_image=16,
    train_dataloader=dict(
        batch_size=16,
        num_workers=4,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
        dataset=dict(_base_.train_dataloader.dataset,
                     pipeline=memory_pipeline)))
train_dataloader = None
