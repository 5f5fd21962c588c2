# Settings of the ablations and rivals at the two scales with ViT-Micro: other
# methods, and the heads of the rivals. `_base_` lists it beside the recipe.
lr = 1e-3

# Other methods
mae_decoder = dict(
    embed_dim=128, decoder_embed_dim=128, decoder_depth=3,
    decoder_num_heads=4)
mae_lr = lr
moco_widths = dict(hid_channels=512, out_channels=128)

# The rivals in configs/rivals: small heads; ours
rivals = dict(
    hidden=256, bottleneck=64, prototypes=128,
    lr_mocov3=lr, lr_densecl=lr, lr_dino=lr, lr_ibot=lr, lr_msn=lr,
    lr_beit=lr, lr_supervised=lr,
    labelled=dict(type='LabelledFolder'),
    averaging=[])
