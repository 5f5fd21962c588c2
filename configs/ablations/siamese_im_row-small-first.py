_base_ = __import__('simim_plugin').ablation_base()
# Ours: views of half the side in the first two thirds of the iterations: half
# of the operations of a run.

small = dict(
    type='SmallViewsFirst', size=_base_.grid[0] // 2 * _base_.patch_size)
custom_hooks = [*_base_.custom_hooks, small]
