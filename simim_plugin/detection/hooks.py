"""Hooks of detection runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.runner import Runner

from ..datasets.annotated import read_as_loaded


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
