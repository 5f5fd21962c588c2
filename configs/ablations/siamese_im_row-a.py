_base_ = __import__('simim_plugin').ablation_base()
# Row (a): pixels of the same view, no colours, random mask, LayerNorm, L2.

layer_norm = dict(type='LN', eps=1e-6)
model = dict(
    type='PixelSiameseIM',
    projector=dict(norm_cfg=layer_norm),
    neck=dict(type='PixelDecoder', norm_cfg=layer_norm,
              out_dims=3 * _base_.patch_size**2),
    head=dict(_delete_=True, type='L2Head'))
train_pipeline = [
    *_base_.loading, _base_.same_view, _base_.random_mask, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
