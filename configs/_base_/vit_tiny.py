# ViT-Tiny: 12 blocks of width 192, as in DeiT.
tiny = dict(
    embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768)
