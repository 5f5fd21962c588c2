"""Figures of the rows of the ablations that no other command computes."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.registry import DATASETS, MODELS

from ..checkpoint import read_weights
from ..checkpoint.reading import read_checkpoint
from ..datasets.labelled_folder import check_same_classes
from ..evaluation import (
    draw_pairs,
    knn_accuracy,
    match_patches,
    place_means,
)
from ..evaluation.features import (
    Pool,
    extract_features,
    folder_dataset,
    image_loader,
)
from ..files import read_json, write_json
from ..visualization.encoder import FrozenEncoder

IMAGES = 1000
"""Test images of which a pair of views is drawn, at most."""


def matched_share(
    weights: str,
    branch: str,
    config: Config,
    data: Path,
    seed: int,
    without_place: bool = False,
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
        without_place (bool): see
            :func:`simim_plugin.evaluation.place_means`.
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
    place = place_means(model, pairs) if without_place else None
    found = match_patches(model, pairs, grid=tuple(config.grid), place=place)
    return found.accuracy


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


def learning_curve(
    pretraining: Path,
    branch: str,
    size: int,
    data: Path,
    images: int,
    file: Path,
    last: float | None = None,
) -> list[dict[str, float]]:
    """Measure the kNN accuracy of every checkpoint of a pretraining.

    It is that of ``tools/evaluate.py --tasks knn`` with k = 20: each encoder
    is read with the norm and the pooling of its family. The crop is 87.5 %
    for all, so above 96 px that of DeiT, 90 %, differs.

    Args:
        pretraining (Path): folder with ``epoch_*.pth``.
        branch (str): of the checkpoints.
        size (int): height and width of the images, pixels.
        data (Path): folder with ``train/CLASS/*`` and ``val/CLASS/*``.
        images (int): of a training step.
        file (Path): JSON file that keeps the points measured so far.
        last (float, optional): accuracy of the last checkpoint, in percent,
            if it is known.

    Returns:
        list[dict[str, float]]: ``epoch``, ``images`` and ``knn`` in percent,
        in the order of the epochs.

    Raises:
        SimimError: if a folder of the images is missing, or both have other
            classes.
    """
    points = read_json(file, [])
    known = {point['epoch'] for point in points}
    checkpoints = {
        int(found.stem.removeprefix('epoch_')): found
        for found in pretraining.glob('epoch_*.pth')
    }
    datasets = [folder_dataset(data / part, size) for part in ('train', 'val')]
    check_same_classes(datasets[0], 'validation', datasets[1])
    loaders = [image_loader(dataset) for dataset in datasets]
    for epoch in sorted(checkpoints.keys() - known):
        if epoch == max(checkpoints) and last is not None:
            accuracy = last
        else:
            weights = read_weights(checkpoints[epoch], branch)
            model = FrozenEncoder(checkpoints[epoch], size, branch=branch)
            pool = cast(Pool, weights.family.pool)
            train, val = (
                extract_features(model, loader, pool) for loader in loaders
            )
            accuracy = knn_accuracy(*train, *val, ks=(20,))[20]
        steps = read_checkpoint(checkpoints[epoch])['meta']['iter']
        points.append(dict(epoch=epoch, images=images * steps, knn=accuracy))
        points.sort(key=lambda point: point['epoch'])
        write_json(file, points)
    return points


def segmentation_options(weights: Path, data: Path) -> list[str]:
    """Return options of the demo's config of kNN segmentation for a row.

    Args:
        weights (Path): an encoder.
        data (Path): the demo's folder.
    """
    options = read_weights(weights).options()
    scenes = 'dataset.data_root'
    return [
        f'test_dataloader.{scenes}={data}',
        f'test_cfg.train_dataloader.{scenes}={data}',
        f'model.backbone.final_norm={options.get("final_norm", False)}',
    ]
