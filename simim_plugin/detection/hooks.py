"""Hooks of detection runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.annotated import read_as_loaded
from ..datasets.image_set import inner_pipelines
from ..engine.unwrapping import unwrapped
from ..errors import SimimError
from ..pictures.distinct import names_in
from .annotations import BOXES_ONLY


@HOOKS.register_module()
class PNGVisualizationHook(DetVisualizationHook):
    """MMDetection's visualization hook, with PNG files for test pictures.

    MMDetection names pictures after the images, as JPEGs for photographs,
    nests the folders of batches if the work folder is relative, and decodes
    the images by MMCV. Names are of
    :func:`simim_plugin.pictures.distinct.distinct_names`. Arguments are those
    of :class:`mmdet.engine.DetVisualizationHook`.
    """

    names: Mapping[str, str] = MappingProxyType({})
    """From the paths of the test's images to the names of pictures."""

    def before_test(self, runner: Runner) -> None:
        """Name the pictures, so that none replaces another."""
        if self.draw:
            self.names = names_in(runner.test_dataloader.dataset)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[DetDataSample],
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        step = runner.iter + batch_idx
        if not self.draw or step % self.interval:
            return
        sample = outputs[0]
        self._visualizer.add_datasample(
            Path(sample.img_path).name if self.show else 'val_img',
            read_as_loaded(sample, self.backend_args),
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            pred_score_thr=self.score_thr,
            step=step,
        )

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[DetDataSample],
    ) -> None:
        """Draw ground truth and predictions of a batch."""
        if not self.draw:
            return
        folder = None
        if self.test_out_dir is not None:
            folder = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
        for sample in outputs:
            self._test_index += 1
            path = sample.img_path
            name = self.names.get(path, Path(path).stem)
            self._visualizer.add_datasample(
                name if folder or self.show else 'test_img',
                read_as_loaded(sample, self.backend_args),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                pred_score_thr=self.score_thr,
                out_file=folder and str(folder / f'{name}.png'),
                step=self._test_index,
            )


@HOOKS.register_module()
class MaskHook(Hook):
    """Refuse a mask head without masks in the training data."""

    def before_train(self, runner: Runner) -> None:
        """Check the training pipeline.

        Raises:
            SimimError: if the model has a mask head and no step loads masks.
        """
        roi_head = getattr(unwrapped(runner.model), 'roi_head', None)
        if not getattr(roi_head, 'with_mask', False):
            return
        for _, pipeline in inner_pipelines(runner.train_dataloader.dataset):
            steps = pipeline.transforms
            loaders = [step for step in steps if hasattr(step, 'with_mask')]
            if loaders and not any(step.with_mask for step in loaders):
                raise SimimError(
                    'The model has a mask head and the training pipeline '
                    'loads no masks; set with_mask=True of LoadAnnotations, '
                    f'or use {BOXES_ONLY} or its settings to train boxes '
                    'alone.'
                )
