"""kNN accuracy during pretraining."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..checkpoint.families import family_of
from ..checkpoint.loading import BRANCHES
from ..checkpoint.names import OURS
from ..datasets.image_set import image_loaders
from ..datasets.labelled_folder import LabelledFolder, check_same_classes
from ..engine.random_state import same_random_state
from ..engine.sharding import gathered
from ..engine.unwrapping import unwrapped
from ..errors import SimimError
from .features import (
    Labelled,
    Pool,
    extract_features,
    folder_dataset,
    image_loader,
)
from .knn import knn_accuracy


@HOOKS.register_module()
class OnlineKNN(Hook):
    """Measure the kNN accuracy of the frozen backbone every few epochs.

    The metric is that of ``tools/evaluate.py --tasks knn``, optionally on
    fewer images: its defaults of ``pool`` and ``branch`` are these. It is
    logged as ``knn/top1_k20`` in scalars.json and TensorBoard. The training
    result stays bit for bit the same. The processes share the images. The
    hook runs after the epoch's checkpoint is written.

    Args:
        train (str): folder of ``CLASS/*.jpg``; its images vote.
        val (str): folder of the same classes; its images are classified.
        interval (int): epochs between measurements; the last epoch is
            always measured. Defaults to 10.
        max_train (int, optional): number of voting images, evenly spread
            over the folder; all if None.
        max_val (int, optional): number of classified images, evenly spread;
            all if None.
        k (int): neighbours. Defaults to 20.
        batch_size (int): images per batch and process. Defaults to 64.
        num_workers (int): loader processes per training process. Defaults
            to 0.
        pool (str, optional): 'mean' of the patch tokens, or the 'cls' token.
            Defaults to that of the method, as docs/encoders.md lists it.
        branch (str): the encoder: 'online' (or 'student'), or 'target' (or
            'teacher'). Defaults to 'online'.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        train: str,
        val: str,
        interval: int = 10,
        max_train: int | None = None,
        max_val: int | None = None,
        k: int = 20,
        batch_size: int = 64,
        num_workers: int = 0,
        pool: str | None = None,
        branch: str = 'online',
    ) -> None:
        self.folders = ((train, max_train), (val, max_val))
        self.interval = interval
        self.k = k
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pool = pool
        self.branch = branch
        self._loaders: list[DataLoader] = []

    def before_train(self, runner: Runner) -> None:
        """Find the images before training starts.

        Raises:
            SimimError: if the model has no such branch, the folders have
                other classes or one only, one is missing or has fewer
                images than there are processes, or all images that vote
                are of one class.
        """
        model = unwrapped(runner.model)
        backbone = _encoder(model, self.branch).backbone
        family = family_of(OURS.name, model.state_dict())
        self._pool = cast(Pool, self.pool or family.pool)
        size = backbone.img_size[0]
        channels = backbone.patch_embed.projection.in_channels
        loads = [*image_loaders(runner.train_dataloader.dataset)]
        window = loads[0].window if loads else None
        self._loaders = []
        datasets = [
            folder_dataset(folder, size, channels, window)
            for folder, _ in self.folders
        ]
        check_same_classes(datasets[0], 'validation', datasets[1])
        if len(datasets[0].metainfo['classes']) < 2:
            raise SimimError(
                'OnlineKNN needs images of two classes or more, and '
                f'{self.folders[0][0]} has one; give it other folders, or '
                'remove the hook.'
            )
        for dataset, (folder, most) in zip(
            datasets, self.folders, strict=True
        ):
            count = min(most or len(dataset), len(dataset))
            if count < get_world_size():
                raise SimimError(
                    f'OnlineKNN takes {count} images of {folder}, too few for '
                    f'the {get_world_size()} processes that share them; give '
                    'it more images, or raise max_train and max_val.'
                )
            chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
            if dataset is datasets[0]:
                _check_votes(dataset, chosen.tolist(), folder)
            share = chosen[get_rank() :: get_world_size()]
            self._loaders.append(
                image_loader(
                    Subset(dataset, share.tolist()),
                    self.batch_size,
                    self.num_workers,
                )
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Measure and log the accuracy if it is due.

        Raises:
            SimimError: if the features are not finite.
        """
        if not (
            self.every_n_epochs(runner, self.interval)
            or self.is_last_train_epoch(runner)
        ):
            return
        with same_random_state(), gathered(runner.model):
            model = _encoder(unwrapped(runner.model), self.branch)
            with _all_tokens(model.backbone):
                train, val = (
                    _features(model, loader, self._pool)
                    for loader in self._loaders
                )
        device = next(runner.model.parameters()).device
        accuracy = knn_accuracy(
            train[0].to(device), train[1], *val, ks=(self.k,)
        )[self.k]
        epoch = runner.epoch + 1
        runner.logger.info(
            f'kNN after epoch {epoch}: {accuracy:.2f} % of {len(val[0])} '
            f'images (k = {self.k}, {len(train[0])} images vote)'
        )
        runner.visualizer.add_scalars(
            {f'knn/top1_k{self.k}': accuracy, 'epoch': epoch},
            step=runner.iter,
            file_path=f'{runner.timestamp}.json',
        )


class _Encoder(nn.Module):
    """One encoder of a model, and its preprocessor."""

    def __init__(self, backbone: nn.Module, preprocessor: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.data_preprocessor = preprocessor


def _encoder(model: Any, branch: str) -> _Encoder:
    """Return the encoder of a branch.

    Raises:
        SimimError: if there is none.
    """
    backbone = model.backbone
    if BRANCHES.get(branch) != 'online':
        target = getattr(model, 'target', None) or {}
        if branch not in BRANCHES or 'backbone' not in target:
            raise SimimError(
                f'OnlineKNN has branch={branch!r}, which '
                f'{type(model).__name__} does not have; leave branch out.'
            )
        backbone = target['backbone']
    return _Encoder(backbone, model.data_preprocessor)


def _check_votes(
    dataset: LabelledFolder, chosen: list[int], folder: str
) -> None:
    """Refuse to let images of one class vote.

    Raises:
        SimimError: naming the setting.
    """
    labels = (dataset.get_data_info(k)['gt_label'] for k in chosen)
    first = next(labels)
    if all(label == first for label in labels):
        raise SimimError(
            f'OnlineKNN takes {len(chosen)} images of {folder} to vote, all '
            'of one class; raise max_train.'
        )


@contextmanager
def _all_tokens(backbone: Any) -> Iterator[None]:
    """Let a backbone return all tokens; that of a classifier has one."""
    kind = backbone.out_type
    backbone.out_type = 'raw'
    try:
        yield
    finally:
        backbone.out_type = kind


def _features(model: Any, loader: DataLoader, pool: Pool) -> Labelled:
    """Gather the features and labels of all processes."""
    shares = all_gather_object(extract_features(model, loader, pool))
    features, labels = zip(*shares, strict=True)
    return torch.cat(features), torch.cat(labels)
