_base_ = __import__('simim_plugin').ablation_base()
# BEiT: the tokens of masked patches (arXiv 2106.08254).

custom_imports = dict(imports=['simim_plugin.rivals'])

model = dict(
    _delete_=True, type='ViTBEiT',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=dict(_base_.model.backbone, type='MaskTokenViT',
                  final_norm=True, train_patch_embed=True, drop_path_rate=0.1),
    head=dict(
        type='TokenHead', in_dims=_base_.model.projector.in_dims,
        num_tokens=_base_.rivals.tokens),
    # Ours, a k-means of patches. For DALL-E's 8,192 tokens: dict(
    #     type='DALLETokenizer', file='dalle_encoder.pth', patch_size=16)
    target_generator=dict(
        type='PatchTokenizer', num_tokens=_base_.rivals.tokens,
        patch_size=_base_.patch_size))
jitter = dict(type='FastColorJitter',
              brightness=0.4, contrast=0.4, saturation=0.4)
one_view = dict(type='MultiCropViews', crops=[
    dict(**_base_.crop, colours=[jitter])])
blocks = dict(_base_.block_mask, num_masked=_base_.rivals.predicted)
train_pipeline = [*_base_.loading, one_view, blocks, dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    optimizer=dict(lr=_base_.rivals.lr_beit, betas=(0.9, 0.999)),
    clip_grad=dict(max_norm=3.0))
param_scheduler = dict(warmup=_base_.rivals.warmup_dino, eta_min=1e-5)
custom_hooks = [dict(type='FitTokenizerHook'), *_base_.watching_hooks]
