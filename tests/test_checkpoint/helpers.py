"""Small encoders of the libraries whose files we read."""

import torch
from timm.models import VisionTransformer as TimmViT
from transformers import ViTConfig, ViTModel

from simim_plugin.models import SiameseIMViT

SIZE, PATCH, DIMS, DEPTH, HEADS = 32, 8, 64, 2, 4


def scramble(model, seed=0):
    """Set all parameters, including norms, to random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
            if 'norm' in name and name.endswith('weight'):
                p.add_(1)
    return model.eval()


def timm_vit(seed=0, **options) -> TimmViT:
    settings = dict(
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=DIMS,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0,
    )
    return scramble(TimmViT(**{**settings, **options}), seed)


def hugging_face_vit(**options) -> ViTModel:
    config = ViTConfig(
        hidden_size=DIMS,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIMS,
        layer_norm_eps=1e-6,
        image_size=SIZE,
        patch_size=PATCH,
        **options,
    )
    return scramble(ViTModel(config))


def our_vit(**options) -> SiameseIMViT:
    """Return the plugin's encoder of that size, with other weights."""
    arch = dict(
        embed_dims=DIMS,
        num_layers=DEPTH,
        num_heads=HEADS,
        feedforward_channels=4 * DIMS,
    )
    settings = dict(arch=arch, img_size=SIZE, patch_size=PATCH)
    vit = SiameseIMViT(**{**settings, **options})
    scramble(vit, seed=99)
    return vit


def images(size=SIZE, count=2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn((count, 3, size, size), generator=generator)


def wrap(state, prefix) -> dict:
    return {f'{prefix}{name}': value for name, value in state.items()}


class Call:
    """Call a function by name when unpickled without an allow-list."""

    def __init__(self, called, *arguments, state=None):
        self.reduced = called, arguments, state

    def __reduce__(self):
        return self.reduced


class Malicious:
    """Open a file for writing when unpickled without an allow-list."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return open, (str(self.witness), 'w')
