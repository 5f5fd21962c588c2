# Fine-tuning of a classifier, listed in `_base_` beside it: the recipe of the
# released code for ViT-B/16. The configs add the model and the augmentation.

# Parts of the model
finetuned = dict(
    out_type='avg_featmap',  # mean of the patches, then a LayerNorm
    train_patch_embed=True)
head = dict(
    type='LinearClsHead',
    init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5),
    loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1))
mixes = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='LabelledFolder', data_root='data/imagenet/train'))
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

# Optimisation: lr = base x batch / 256, scaled to the batch of the run
optim_wrapper = dict(
    type='AutocastOptimWrapper',  # bf16 on GPUs
    constructor='LayerDecayConstructor',
    optimizer=dict(type='AdamW', lr=2.5e-4 * 1024 / 256,
                   betas=(0.9, 0.999), weight_decay=0.05,
                   fused=True),
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        flat_decay_mult=0.0,
        custom_keys={'.cls_token': dict(decay_mult=0.0)}))
auto_scale_lr = dict(base_batch_size=1024, enable=True)
param_scheduler = dict(
    type='WarmupCosineLR', warmup=5, eta_min=1e-6, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
