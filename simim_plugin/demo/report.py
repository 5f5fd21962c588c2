"""Measure and draw what the demo run has learned."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mmcv
import mmengine
import mmpretrain
import numpy as np
import torch
import torchvision
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmpretrain.datasets import remove_transform
from mmpretrain.registry import MODELS
from torch import Tensor

import simim_plugin

from ..checkpoint import load_model
from ..datasets import LoadRGBImage
from ..evaluation import (
    PatchMatches,
    draw_pairs,
    extract_features,
    folder_dataset,
    image_loader,
    knn_accuracy,
    match_patches,
)
from ..files import last_checkpoint
from ..pictures.walking import list_images
from ..visualization import (
    draw_loss,
    draw_matches,
    draw_pair,
    read_scalars,
)

SPLITS = ('train', 'val')

SHOWN = 3
"""Number of pairs in the picture of the matches."""


@dataclass(frozen=True)
class Matches:
    """Patch matches of the same pairs before and after pretraining.

    Args:
        pairs (Sequence[dict]): results of
            :func:`simim_plugin.evaluation.draw_pairs`.
        before (PatchMatches): matches at random initialisation.
        after (PatchMatches): matches after pretraining.
    """

    pairs: Sequence[dict[str, Any]]
    before: PatchMatches
    after: PatchMatches

    def summary(self) -> dict[str, float]:
        """Return accuracies in percent and numbers of patches and pairs."""
        return dict(
            before=self.before.accuracy,
            after=self.after.accuracy,
            chance=self.before.chance,
            patches=int(self.before.inside.sum()),
            pairs=len(self.pairs),
        )

    def typical(self) -> Tensor:
        """Return the numbers of the pairs, the most typical first.

        The share of patches that find their partner, before and after, is
        nearest to that of all pairs. Pairs that overlap in less than a third
        of their patches come last.
        """
        overlap = self.after.inside.double().mean(dim=(1, 2))
        off = torch.zeros_like(overlap)
        for found in (self.before, self.after):
            right = (found.correct & found.inside).double().mean(dim=(1, 2))
            off += (right / overlap - found.accuracy / 100).abs()
        off[~(overlap >= 1 / 3)] = torch.inf
        return off.argsort(stable=True)


class TrainedRun:
    """A finished pretraining run and its initial state.

    Args:
        folder (Path): work directory of the run.
        seed (int): seed of the run.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.config = Config.fromfile(folder / 'config.py')
        self.seed = seed
        init_default_scope('mmpretrain')

    @cached_property
    def before(self) -> BaseModel:
        """The initial model of the run, initialised again from its seed."""
        # Otherwise init_weights lists every parameter.
        MMLogger.get_current_instance().setLevel('WARNING')
        set_random_seed(self.seed)
        model = MODELS.build(self.config.model)
        model.init_weights()
        return model.to(_device())

    @cached_property
    def after(self) -> BaseModel:
        """The model of the last checkpoint."""
        model = MODELS.build(self.config.model)
        load_model(model, last_checkpoint(self.folder))
        return model.to(_device())

    @cached_property
    def curve(self) -> dict[str, list[float]]:
        """The loss and its terms, one value per logged iteration."""
        return read_scalars(self.folder)

    def knn(self, data_root: Path) -> dict[str, Any]:
        """Compute kNN accuracies in percent before and after pretraining.

        Args:
            data_root (Path): holds ``train/CLASS/*`` and ``val/CLASS/*``.

        Returns:
            dict: ``before`` and ``after``, the results of
            :func:`~simim_plugin.evaluation.knn_accuracy` by k;
            ``mean_colour`` and ``chance`` for comparison; the number of
            ``classes``.
        """
        size = self.after.backbone.img_size[0]
        datasets = [folder_dataset(data_root / s, size) for s in SPLITS]
        # Decode once for both models.
        images = [list(dataset) for dataset in datasets]
        classes = len(datasets[0].metainfo['classes'])
        return dict(
            before=_knn(self.before, images),
            after=_knn(self.after, images),
            mean_colour=_mean_colour_accuracy(*images),
            chance=100 / classes,
            classes=classes,
        )

    def match(self, folder: Path, count: int) -> Matches:
        """Match the patches of pairs of views drawn as in training.

        Args:
            folder (Path): holds the images, which are sampled evenly.
            count (int): number of pairs, at most one per image.
        """
        paths = list_images(folder)
        chosen = np.linspace(0, len(paths) - 1, min(count, len(paths)))
        pipeline = self.config.train_dataloader.dataset.pipeline
        transform = Compose(remove_transform(pipeline, 'PackInputs'))
        pairs = draw_pairs(
            transform, [paths[i] for i in chosen.astype(int)], self.seed
        )
        return Matches(
            pairs,
            match_patches(self.before, pairs),
            match_patches(self.after, pairs),
        )

    def draw(self, matches: Matches, folder: Path) -> dict[str, str]:
        """Save the pictures ``loss``, ``pair`` and ``matches`` as PNG.

        The pairs shown are typical ones, see :meth:`Matches.typical`.

        Returns:
            dict[str, str]: the file of each picture.
        """
        shown = matches.typical()[:SHOWN]
        pair = matches.pairs[int(shown[0])]
        figures = dict(
            loss=draw_loss(self.curve),
            pair=draw_pair(
                LoadRGBImage()(dict(img_path=pair['img_path']))['img'],
                pair['img'],
                pair['geometry'],
                pair['mask'],
                matches.after.grid,
            ),
            matches=draw_matches(
                [matches.pairs[i]['img'] for i in shown.tolist()],
                {
                    'Random initialisation': matches.before[shown],
                    'After pretraining': matches.after[shown],
                },
            ),
        )
        files = {name: folder / f'{name}.png' for name in figures}
        for name, figure in figures.items():
            figure.savefig(files[name])
        return {name: str(file) for name, file in files.items()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages used."""
    packages = (simim_plugin, torch, torchvision, mmengine, mmcv, mmpretrain)
    return dict(
        python=platform.python_version(),
        numpy=np.__version__,
        **{package.__name__: package.__version__ for package in packages},
    )


def _knn(model: BaseModel, images: Sequence[list[dict]]) -> dict[str, float]:
    """Return kNN accuracies by k, on packed training and validation images."""
    train, val = (extract_features(model, image_loader(i)) for i in images)
    accuracy = knn_accuracy(*train, *val)
    # JSON keys are strings.
    return {str(k): percent for k, percent in accuracy.items()}


def _mean_colour_accuracy(train: list[dict], val: list[dict]) -> float:
    """Return the 20-NN accuracy in percent on mean RGB colours.

    Neighbours are Euclidean and vote by majority.
    """

    def read(images: list[dict]) -> tuple[Tensor, Tensor]:
        colours = [i['inputs'].float().mean(dim=(1, 2)) for i in images]
        labels = [i['data_samples'].gt_label for i in images]
        return torch.stack(colours), torch.cat(labels)

    colours, labels = read(train)
    asked, expected = read(val)
    k = min(20, len(colours))
    nearest = torch.cdist(asked, colours).topk(k, largest=False).indices
    found = labels[nearest].mode(dim=1).values
    return 100 * (found == expected).double().mean().item()


def _device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'
