_base_ = __import__('simim_plugin').ablation_base()
# Ours: LayerNorm also on the prediction (--online_ln of the released code).

model = dict(head=dict(
    type='NormedUniGradHead', norm=dict(type='OnlineNorm')))
