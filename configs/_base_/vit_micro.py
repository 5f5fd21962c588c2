# ViT-Micro: 4 blocks of width 128, for runs of minutes. The encoder is ours.
micro = dict(
    embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512)
