# What fine-tuning and linear probing share beyond all classification: they
# train. The configs add head, augmentation and optimisation.
_base_ = './imagenet_classifier.py'

train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='LabelledFolder', data_root='data/imagenet/train'))
val_dataloader = _base_.test_dataloader
val_evaluator = _base_.test_evaluator
val_cfg = dict()
optim_wrapper = dict(type='AutocastOptimWrapper')  # bf16 on GPUs
param_scheduler = dict(type='WarmupCosineLR', convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, val_interval=1)
