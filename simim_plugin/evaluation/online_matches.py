"""Patches that find their partner, during pretraining without labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..datasets.image_set import inner_datasets, inner_pipelines
from ..engine.random_state import same_random_state
from ..engine.sharding import gathered
from ..engine.unwrapping import unwrapped
from ..errors import SimimError, Trouble
from ..pictures import UnreadableImageError
from ..pictures.walking import list_images
from .matching import draw_pairs, match_patches, place_means

SHARE = 'matches/share'
"""Name of the share in the log, percent."""

VERDICT = 'Patches that find their partner in the other view'
"""How the sentence at the end of a run begins."""

START = 'matches/start_without_place'
"""Entry of the message hub, which checkpoints keep."""

_LEFT_OUT = ('BlockwiseMask', 'RandomMask', 'PackInputs')


class Share(NamedTuple):
    """Patches of all pictures that find their partner.

    Args:
        percent (float): share of the patches.
        error (float): its standard error over the pictures, percent.
        chance (float): share of a random choice, percent.
        patches (int): number of patches.
        pictures (int): number of pictures.
    """

    percent: float
    error: float
    chance: float
    patches: int
    pictures: int


@HOOKS.register_module()
class OnlineMatches(Hook):
    """Measure how many patches find their partner every few epochs.

    Each picture is cut into two views as in training, without a mask. A
    patch of one view whose place is in the other is matched to the patch
    there with the most similar features, after the part of the features
    that only depends on the place in the view is subtracted
    (:func:`simim_plugin.evaluation.place_means`). The share that is within
    one patch of the truth is logged as ``matches/share``, in percent, in
    scalars.json and TensorBoard, before the first epoch too. The end of the
    run says what it means. The pictures are those that the training set
    holds out (``held_out`` of :class:`simim_plugin.datasets.ImageFolder`),
    or those of a folder, two or more. The pairs are drawn once by the seed,
    so that all measurements of a run see the same ones. The training result
    stays bit for bit the same. The processes share the pictures.

    Args:
        interval (int): epochs between measurements; the last epoch is always
            measured. Defaults to 10.
        folder (str, optional): of other pictures, that are not trained on.
            Defaults to None: those held out.
        max_images (int): pictures of the folder to take, evenly spread.
            Defaults to 32.
        seed (int): of the pairs. Defaults to 0.
        batch_size (int): pairs per batch and process. Defaults to 16.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        interval: int = 10,
        folder: str | None = None,
        max_images: int = 32,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        self.interval = interval
        self.folder = folder
        self.max_images = max_images
        self.seed = seed
        self.batch_size = batch_size
        self._pairs: list[dict[str, Any]] = []
        self._on = False
        self._last: Share | None = None

    def before_train(self, runner: Runner) -> None:
        """Draw the pairs, and measure the encoder that the run starts from.

        Raises:
            SimimError: if the folder has no picture, none can be read, or
                the training set has no pipeline of pairs.
        """
        dataset = runner.train_dataloader.dataset
        infos = self._infos(dataset)
        self._on = len(infos) > 1
        if not self._on:
            runner.logger.info(
                f'OnlineMatches is off: {len(infos)} pictures are held out, '
                'and it needs two or more. Set held_out of the training set, '
                'which needs 20 pictures for each, or a folder.'
            )
            return
        steps = _steps(dataset)
        self._pairs = [
            pair
            for k in range(get_rank(), len(infos), get_world_size())
            for pair in self._draw(steps, infos[k], self.seed + k)
        ]
        if any('geometry' not in pair for pair in self._pairs):
            raise SimimError(
                'The training set of OnlineMatches does not cut pairs of '
                'views; leave the hook out.'
            )
        readable = sum(all_gather_object(len(self._pairs)))
        if readable < 2:
            raise SimimError(
                f'OnlineMatches can read {readable} of {len(infos)} pictures '
                f'({infos[0]["img_path"]}, ...), and needs two or more; '
                'replace the others.'
            )
        if runner.message_hub.runtime_info.get(START) is None:
            share = self._measure(runner, runner.epoch)
            runner.message_hub.update_info(START, [share.percent, share.error])

    def after_train_epoch(self, runner: Runner) -> None:
        """Measure and log the share if it is due."""
        due = self.every_n_epochs(runner, self.interval)
        if self._on and (due or self.is_last_train_epoch(runner)):
            self._last = self._measure(runner, runner.epoch + 1)

    def after_train(self, runner: Runner) -> None:
        """Say what the shares of the run mean."""
        if self._last is not None:
            start, error = runner.message_hub.get_info(START)
            runner.logger.info(verdict(start, error, self._last))

    def _infos(self, dataset: Any) -> list[dict]:
        if self.folder is None:
            apart = {  # a wrapper passes on those of the set in it
                info['img_path']: info
                for one in inner_datasets(dataset)
                for info in getattr(one, 'held_out_infos', ())
            }
            return [*apart.values()]
        paths = list_images(self.folder)
        if len(paths) < 2:
            raise SimimError(
                f'OnlineMatches finds {len(paths)} pictures in '
                f'{self.folder}, and needs two or more; correct its folder.'
            )
        count = min(self.max_images, len(paths))
        chosen = np.linspace(0, len(paths) - 1, count).astype(int)
        return [dict(img_path=paths[k]) for k in chosen]

    def _draw(
        self, steps: list, info: dict, seed: int
    ) -> Iterator[dict[str, Any]]:
        """Yield the pair of a picture, none if it cannot be read."""
        try:
            yield from draw_pairs(Compose(steps), [info], seed)
        except UnreadableImageError as error:
            print_log(
                f'OnlineMatches leaves out a picture: {error}', 'current'
            )

    def _measure(self, runner: Runner, epoch: int) -> Share:
        with same_random_state(), gathered(runner.model):
            rows = self._rows(unwrapped(runner.model))
        share = joined([*chain.from_iterable(all_gather_object(rows))])
        runner.logger.info(
            f'Matches after epoch {epoch}: {share.percent:.1f} % of '
            f'{share.patches} patches find their partner in the other view '
            f'(chance {share.chance:.1f} %; {share.pictures} pictures that '
            'are not trained on)'
        )
        runner.visualizer.add_scalars(
            {SHARE: share.percent, 'epoch': epoch},
            step=runner.iter,
            file_path=f'{runner.timestamp}.json',
        )
        return share

    def _rows(self, model: Any) -> list[tuple[int, float, float]]:
        """Return patches, correct ones and those by chance, by picture."""
        pairs, size = self._pairs, self.batch_size
        place = place_means(model, pairs, size, shared=True)
        if not pairs:  # of more processes than pictures
            return []
        small = getattr(getattr(model, 'neck', None), 'target_grid', None)
        found = match_patches(
            model, pairs, size, target_grid=small, place=place
        )
        rows: list[tuple[int, float, float]] = []
        for k in range(len(self._pairs)):
            one = found[torch.tensor([k])]
            count = int(one.inside.sum())
            if count:
                correct = int((one.correct & one.inside).sum())
                rows.append((count, correct, count * one.chance / 100))
        return rows


def _steps(dataset: Any) -> list[Any]:
    """Return the transforms that cut the pairs of a training set.

    Raises:
        SimimError: if it has none.
    """
    for _, pipeline in inner_pipelines(dataset):
        return [
            step
            for step in pipeline.transforms
            if type(step).__name__ not in _LEFT_OUT
        ]
    raise SimimError(
        'The training set has no attribute `pipeline` with a Compose, by '
        'which OnlineMatches cuts its pictures; keep the Compose there, or '
        'leave the hook out.'
    )


def joined(rows: list[tuple[int, float, float]]) -> Share:
    """Return the share over pictures.

    Args:
        rows (list[tuple]): patches, correct ones and the expected number of
            correct ones by chance, of each picture.

    Raises:
        SimimError: if there is no patch.
    """
    if not rows:
        raise SimimError(
            'The views of the pictures of OnlineMatches do not overlap; take '
            'more pictures.'
        )
    counts, correct, chance = np.array(rows, float).T
    total, share = counts.sum(), correct.sum() / counts.sum()
    # Patches of a picture are alike: the pictures are what varies.
    residual = correct - share * counts
    spread = len(rows) / max(1, len(rows) - 1) * (residual**2).sum()
    return Share(
        float(100 * share),
        float(100 * math.sqrt(spread) / total),
        float(100 * chance.sum() / total),
        int(total),
        len(rows),
    )


def verdict(start: float, start_error: float, end: Share) -> str:
    """Return a sentence on what a run has learned.

    Args:
        start (float): share before the run, percent.
        start_error (float): its standard error, percent.
        end (Share): after the run.
    """
    margin = 2 * math.hypot(start_error, end.error)
    if end.percent < end.chance + 2 * end.error:
        meaning = (
            'that is no better than chance, so the features do not tell '
            f'places apart; see {Trouble.COLLAPSE}'
        )
    elif end.percent > start + margin:
        meaning = (
            'more than at the start, so the encoder has learned to recognise '
            'the same place in pictures that it has not seen'
        )
    elif end.percent < start - margin:
        meaning = (
            'fewer than at the start, which is common early in a run, where '
            'features narrow first; train longer, and if it stays, lower the '
            f'learning rate; see {Trouble.LOSS_STAYS}'
        )
    else:
        meaning = (
            'no clear change, so it has not shown that it learns; train '
            f'longer, or on more pictures; see {Trouble.LOSS_STAYS}'
        )
    return (
        f'{VERDICT}: {start:.1f} % '
        f'at the start, {end.percent:.1f} % at the end, {end.chance:.1f} % '
        f'by chance, each +- {max(start_error, end.error):.1f}: {meaning}.'
    )
