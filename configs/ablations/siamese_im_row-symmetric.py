_base_ = __import__('simim_plugin').ablation_base()
# Ours: each view predicts the other, at twice the cost.

model = dict(type='SymmetricSiameseIM')
