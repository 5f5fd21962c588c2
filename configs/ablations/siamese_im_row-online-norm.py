_base_ = __import__('simim_plugin').ablation_base()
# Ours: LayerNorm on the prediction too (released --online_ln).

model = dict(head=dict(
    type='NormedUniGradHead', norm=dict(type='OnlineNorm')))
