_base_ = __import__('simim_plugin').ablation_base()
# Ours: the patch embedding trained (released --train_patch_embed).

model = dict(backbone=dict(train_patch_embed=True))
