# DeiT's augmentation of a crop of Pillow, listed in `_base_` beside a recipe.
# RandAugment (rand-m9-mstd0.5-inc1) and erasing work in BGR.
deit_augmentation = [
    dict(type='PILToNumpy', to_bgr=True),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2,
         magnitude_level=9, magnitude_std=0.5,
         hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
    dict(type='RandomErasing', erase_prob=0.25, mode='rand',
         min_area_ratio=0.02, max_area_ratio=1 / 3,
         fill_color=[103.53, 116.28, 123.675],
         fill_std=[57.375, 57.12, 58.395]),
    dict(type='NumpyToPIL', to_rgb=True)]
