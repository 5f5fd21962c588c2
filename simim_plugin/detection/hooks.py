"""Hooks of detection runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.annotated import read_as_loaded
from ..engine.unwrapping import unwrapped
from ..errors import SimimError
from .annotations import BOXES_ONLY


@HOOKS.register_module()
class PNGVisualizationHook(DetVisualizationHook):
    """MMDetection's visualization hook, with PNG files for test pictures.

    MMDetection names pictures after the images, as JPEGs for photographs, and
    nests the folders of batches if the work folder is relative. Arguments are
    those of :class:`mmdet.engine.DetVisualizationHook`.
    """

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[DetDataSample],
    ) -> None:
        """Draw ground truth and predictions of a batch."""
        if not self.draw or self.test_out_dir is None:
            super().after_test_iter(runner, batch_idx, data_batch, outputs)
            return
        folder = Path(runner.work_dir, runner.timestamp, self.test_out_dir)
        for sample in outputs:
            name = Path(sample.img_path).stem
            self._visualizer.add_datasample(
                name,
                read_as_loaded(sample, self.backend_args),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                pred_score_thr=self.score_thr,
                out_file=str(folder / f'{name}.png'),
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
        pipeline = getattr(runner.train_dataloader.dataset, 'pipeline', None)
        if not getattr(roi_head, 'with_mask', False) or pipeline is None:
            return
        loaders = [s for s in pipeline.transforms if hasattr(s, 'with_mask')]
        if loaders and not any(step.with_mask for step in loaders):
            raise SimimError(
                'The model has a mask head and the training pipeline loads '
                'no masks; set with_mask=True of LoadInstances, or use '
                f'{BOXES_ONLY} or its settings to train boxes alone.'
            )
