"""Patches that find their partner, for the rows of the ablations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.registry import DATASETS, MODELS

from ..evaluation import draw_pairs, match_patches
from ..visualization.encoder import FrozenEncoder

IMAGES = 1000
"""Test images of which a pair of views is drawn, at most."""


def matched_share(
    weights: str, branch: str, config: Config, data: Path, seed: int
) -> float:
    """Return the share of patches that find their partner, in percent.

    The pairs are the same for every encoder: two views of each test image as
    the method draws them, with their colours and without a mask.

    Args:
        weights (str): a checkpoint, or a config for an encoder as it is
            initialised.
        branch (str): of the checkpoint.
        config (Config): of the method, with ``loading`` and ``views``.
        data (Path): images, in ``val`` unless the data set has a test split.
        seed (int): of the initialisation.
    """
    init_default_scope('mmpretrain')
    settings = dict(config.train_dataloader.dataset, pipeline=[])
    if 'split' in settings:
        settings.update(split='test', data_root=str(data))
    else:
        settings.update(data_root=str(data / 'val'))
    dataset = DATASETS.build(settings)
    count = min(IMAGES, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    pairs = draw_pairs(
        Compose([*config.loading, config.views]),
        [dataset.get_data_info(int(k)) for k in chosen],
        seed=0,
    )
    model = _encoder(weights, branch, config, seed)
    return match_patches(model, pairs, grid=tuple(config.grid)).accuracy


def _encoder(
    weights: str, branch: str, config: Config, seed: int
) -> BaseModel:
    if not weights.endswith('.py'):
        size = config.crop['size']
        statistics = config.model.data_preprocessor
        return FrozenEncoder(
            weights,
            size,
            branch=branch,
            mean=statistics.mean,
            std=statistics.std,
        )
    set_random_seed(seed)
    model = MODELS.build(config.model)
    model.init_weights()
    return model.to(get_device())
