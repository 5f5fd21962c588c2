"""A model and a batch small enough for any test."""

import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from simim_plugin.geometry import PairGeometry, View
from simim_plugin.models import SiameseIM


def small_config(grid=(4, 4), dims=16, patch=4) -> dict:
    """Configure a SiameseIM of two layers; images are grid x patch pixels."""
    return dict(
        type='SiameseIM',
        backbone=dict(
            type='SiameseIMViT',
            arch=dict(
                embed_dims=24,
                num_layers=2,
                num_heads=2,
                feedforward_channels=48,
            ),
            img_size=(grid[0] * patch, grid[1] * patch),
            patch_size=patch,
        ),
        projector=dict(
            type='TransformerProjector',
            in_dims=24,
            embed_dims=dims,
            depth=1,
            num_heads=2,
        ),
        neck=dict(
            type='RelativePositionDecoder',
            grid=grid,
            embed_dims=dims,
            depth=2,
            num_heads=2,
        ),
        head=dict(type='UniGradHead'),
    )


def small_model(**kwargs) -> SiameseIM:
    """Build :func:`small_config` with the same weights at every call."""
    torch.manual_seed(0)
    model = MODELS.build(small_config(**kwargs))
    model.init_weights()
    return model


def small_batch(size=4, grid=(4, 4), patch=4, masked=6, seed=1):
    """Draw two views and their data samples."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size, 3, grid[0] * patch, grid[1] * patch)
    inputs = [torch.randn(shape, generator=generator) for _ in range(2)]
    samples = []
    for _ in range(size):
        order = torch.randperm(grid[0] * grid[1], generator=generator)
        boxes = torch.rand(2, 4, generator=generator) * 50 + 10
        flips = torch.rand(2, generator=generator) < 0.5
        sample = DataSample().set_mask(order < masked)
        sample.geometry = PairGeometry(
            View.of(boxes[0].tolist(), flips[0]),
            View.of(boxes[1].tolist(), flips[1]),
        )
        samples.append(sample)
    return inputs, samples
