_base_ = __import__('simim_plugin').ablation_base()
# Ours: train the patch embedding (--train_patch_embed of the released code).

model = dict(backbone=dict(train_patch_embed=True))
