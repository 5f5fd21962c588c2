_base_ = __import__('simim_plugin').ablation_base()
# Ours: views of half the side in the first two thirds of the iterations: half
# of the operations of a run.

custom_hooks = [*_base_.custom_hooks, dict(type='SmallViewsFirst')]
