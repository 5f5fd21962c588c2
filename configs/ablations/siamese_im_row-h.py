_base_ = __import__('simim_plugin').ablation_base()
# Row (h): (g) with block-wise masks.

model = dict(head=dict(
    type='NormedUniGradHead', norm=dict(type='MoCoLikeNorm')))
