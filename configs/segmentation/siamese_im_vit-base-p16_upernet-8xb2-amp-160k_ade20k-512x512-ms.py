# UPerNet on ADE20k, ViT-B/16, tested at six scales, with and without a flip.
_base_ = './siamese_im_vit-base-p16_upernet-8xb2-amp-160k_ade20k-512x512.py'

scales = [(1024, 256), (1536, 384), (2048, 512),
          (2560, 640), (3072, 768), (3584, 896)]
multi_scale_pipeline = [
    _base_.load,
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=scale, keep_ratio=True)
         for scale in scales],
        [dict(type='RandomFlip', prob=prob, direction='horizontal')
         for prob in (0.0, 1.0)],
        [_base_.load_labels],
        [_base_.pack],
    ]),
]
test_dataloader = dict(dataset=dict(pipeline=multi_scale_pipeline))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='MultiScaleTestHook'),
]
