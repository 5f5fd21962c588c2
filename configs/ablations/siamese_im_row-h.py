_base_ = __import__('simim_plugin').ablation_base()
# Row (h): (g) with block-wise masks.

model = dict(head=dict(norm=dict(type='MoCoLikeNorm')))
