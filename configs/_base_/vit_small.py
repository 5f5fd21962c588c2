# ViT-Small: 12 blocks of width 384, as in DeiT.
small = dict(
    embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536)
