_base_ = __import__('simim_plugin').ablation_base()
# Ours: predict a random half of the target's patches; the target branch sees
# only these.

model = dict(type='PartialTargetSiameseIM', see_whole=False)
half = _base_.grid[0] * _base_.grid[1] // 2
subset = dict(_base_.random_mask, num_masked=half, key='target_tokens')
train_pipeline = [
    *_base_.loading, _base_.two_views, _base_.block_mask, subset,
    dict(_base_.pack, algorithm_keys=['geometry', 'target_tokens'])]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
