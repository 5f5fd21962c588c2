"""Train on smaller views first, which cost less."""

from __future__ import annotations

from copy import copy
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..datasets.image_set import inner_pipelines, without_pipeline
from ..errors import SimimError
from .loop import ExactEpochLoop
from .unwrapping import unwrapped

SCALE, SHARE = 0.5, 2 / 3
"""Defaults of the hook."""


@HOOKS.register_module()
class SmallViewsFirst(Hook):
    """Train on smaller views first, and on the config's views to the end.

    Both views shrink by the same factor. Masks keep their share of the
    patches, blocks their share of the view, and the blur its share of the
    side. Positions keep their range: a point of a view has the same
    position at both sizes. The first optimizer step has the config's views,
    so that a batch which does not fit into memory fails at once. The switch
    falls between two optimizer steps, and only depends on the iteration, so
    that a resumed run stays exact. Checkpoints, monitors and evaluation are
    those of the config's views.

    Args:
        scale (float): side of the small views, as a share of the config's,
            below 1; whole patches. Defaults to 0.5.
        share (float): of the iterations, between 0 and 1. Defaults to 2 / 3.

    Raises:
        SimimError: if the run has no step of one of the sizes, its views,
            model or loop have one size only, or a part of its training set
            has no attribute ``pipeline``.
    """

    def __init__(self, scale: float = SCALE, share: float = SHARE) -> None:
        self.scale = scale
        self.share = share
        self._from = self._until = 0
        self._small = False
        self._pipelines: list[tuple[Any, Any, Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Prepare the small views, and find the iteration of the switch."""
        loop = runner.train_loop
        if not isinstance(loop, ExactEpochLoop):
            raise SimimError(
                f'SmallViewsFirst cannot change the views of a '
                f'{type(loop).__name__}; set train_cfg.type to '
                "'ExactEpochLoop', or remove the hook."
            )
        self._from = every = loop.accumulated
        self._until = round(self.share * runner.max_iters / every) * every
        if not self._from < self._until < runner.max_iters:
            raise SimimError(
                f'share={self.share:.3g} of SmallViewsFirst ends the small '
                f'views at iteration {self._until} of {runner.max_iters}, and '
                f'they begin at {self._from}; set another share, or train '
                'longer.'
            )
        model = unwrapped(runner.model)
        any_size = hasattr(getattr(model, 'neck', None), 'mask_tokens')
        if not any_size or hasattr(model, 'target_positions'):
            raise SimimError(
                f'{type(model).__name__} has one size of its views, and '
                'SmallViewsFirst changes it; use SiameseIM, or remove the '
                'hook.'
            )
        dataset = loop.dataloader.dataset
        bare = next(without_pipeline(dataset), None)
        if bare is not None:
            raise SimimError(
                f'The {type(bare).__name__} of the training set has no '
                'attribute `pipeline` with a Compose, whose views '
                'SmallViewsFirst changes; keep the Compose there, or remove '
                'the hook.'
            )
        self._pipelines = [
            (
                one,
                pipeline,
                small_pipeline(pipeline, self.scale, model.backbone),
            )
            for one, pipeline in inner_pipelines(dataset)
        ]

    def before_train_epoch(self, runner: Runner) -> None:
        """Choose the views of the first iteration, of a resumed run too."""
        self._choose(runner, runner.iter)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Change to the config's views when it is time."""
        self._choose(runner, runner.iter + 1)

    def _choose(self, runner: Runner, iteration: int) -> None:
        """Choose the views of an iteration."""
        small = self._from <= iteration < self._until
        if small == self._small:
            return
        self._small = small
        for dataset, whole, smaller in self._pipelines:
            dataset.pipeline = smaller if small else whole
        runner.train_loop.drop_batches()
        side = f'{self.scale:.3g} of the side' if small else 'full size'
        runner.logger.info(
            f'SmallViewsFirst: views of {side} from here on; iteration '
            f'{self._until} of {runner.max_iters} is the first of full size.'
        )


def small_pipeline(pipeline: Any, scale: float, vit: Any) -> Any:
    """Return a pipeline with smaller views, and masks for them.

    Args:
        pipeline (Compose): of pairs of views.
        scale (float): side of the views as a share, rounded to patches.
        vit (nn.Module): the backbone.

    Raises:
        SimimError: if the views do not shrink to whole patches, or a part
            has one size only.
    """
    steps = pipeline.transforms
    views = [step for step in steps if hasattr(step, 'of_size')]
    if len(views) != 1:
        raise SimimError(
            f'SmallViewsFirst needs one PairedViews in the pipeline, not '
            f'{len(views)}; remove the hook, or add them.'
        )
    if getattr(vit, 'bias_index', None) is not None:
        raise SimimError(
            'The relative_bias of model.backbone has one grid, and '
            'SmallViewsFirst needs two; remove one of them.'
        )
    patch = vit.patch_embed.projection.kernel_size
    before = [n // p for n, p in zip(views[0].size, patch, strict=True)]
    rows, columns = (round(scale * n) for n in before)
    if not (0 < rows < before[0] and 0 < columns < before[1]):
        raise SimimError(
            f'scale={scale:.3g} of SmallViewsFirst makes {rows} x {columns} '
            f'patches of {before[0]} x {before[1]}; set one that leaves '
            'fewer patches, and at least one.'
        )
    size = rows * patch[0], columns * patch[1]
    other = copy(pipeline)
    other.transforms = [_at(step, size, (rows, columns)) for step in steps]
    return other


def _at(step: Any, size: tuple[int, int], grid: tuple[int, int]) -> Any:
    """Return a transform for the small views."""
    if hasattr(step, 'of_size'):
        return step.of_size(size)
    if hasattr(step, 'on_grid'):
        return step.on_grid(grid)
    if hasattr(step, 'grid'):
        raise SimimError(
            f'{type(step).__name__} has a grid, and no method `on_grid` that '
            'returns it for the grid of small views; add the method, or '
            'remove SmallViewsFirst.'
        )
    return step
