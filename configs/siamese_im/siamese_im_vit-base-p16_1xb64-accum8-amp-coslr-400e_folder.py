# Any folder of unlabelled images on one GPU, 512 images per optimizer step:
#   --cfg-options train_dataloader.dataset.data_root=/my/images
_base_ = ['../_base_/siamese_im.py', '../_base_/runtime.py']

custom_imports = dict(
    imports=['simim_plugin.evaluation'], allow_failed_imports=False)

optim_wrapper = dict(accumulative_counts=8)
train_dataloader = dict(
    batch_size=64, dataset=dict(data_root='data/images', held_out=32))
train_cfg = dict(max_epochs=400, fit_accumulation=True)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='OnlineMatches', interval=10),  # docs/monitors.md
]
