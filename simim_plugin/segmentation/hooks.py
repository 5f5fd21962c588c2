"""Hooks of segmentation runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.models import SegTTAModel
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from ..datasets.annotated import read_as_loaded
from ..engine.unwrapping import unwrapped
from ..errors import SimimError


@HOOKS.register_module()
class OneChannelHook(Hook):
    """Refuse a softmax over one channel, which is 1 whatever the image."""

    def before_train(self, runner: Runner) -> None:
        """Check the losses of all heads.

        Raises:
            SimimError: if a head of one channel has a loss by softmax.
        """
        for name, head in unwrapped(runner.model).named_modules():
            if isinstance(head, BaseDecodeHead) and head.out_channels == 1:
                for loss in head.loss_decode.modules():
                    if getattr(loss, 'use_sigmoid', True) is False:
                        raise SimimError(
                            f"The model's {name} has one channel and a loss "
                            'by softmax, which learns nothing; set '
                            f'{name}.loss_decode.use_sigmoid=True, or '
                            f'{name}.out_channels=2.'
                        )


class MultiScaleModel(SegTTAModel):
    """MMSegmentation's average of several views, also of one channel.

    A model of one channel predicts probabilities. MMSegmentation takes them
    for logits.
    """

    def merge_preds(
        self, data_samples_list: list[list[SegDataSample]]
    ) -> list[SegDataSample]:
        """Average the views of each image."""
        if self.module.out_channels > 1:
            return super().merge_preds(data_samples_list)
        merged = []
        for sample, *others in data_samples_list:
            views = [s.seg_logits.data for s in (sample, *others)]
            share = torch.stack(views).mean(dim=0)  # (1, H, W)
            chosen = share > self.module.decode_head.threshold
            sample.pred_sem_seg = PixelData(data=chosen.to(share))
            merged.append(sample)
        return merged


@HOOKS.register_module()
class MultiScaleTestHook(Hook):
    """Average the predictions for several scales and flips when testing.

    MMSegmentation's test script does this with ``--tta``. The test pipeline
    must end in ``TestTimeAug``.
    """

    priority = 'LOW'  # after hooks that inspect the model

    def before_test(self, runner: Runner) -> None:
        """Wrap the model after its weights are loaded."""
        if isinstance(runner.model, SegTTAModel):
            return  # wrapped by an earlier test of this Runner
        runner.model = MultiScaleModel(module=unwrapped(runner.model))


@HOOKS.register_module()
class AsLoadedVisualizationHook(SegVisualizationHook):
    """MMSegmentation's visualization hook, on images as they were loaded.

    MMSegmentation turns images by their EXIF orientation, also where the
    label maps are of the stored ones. Arguments are those of
    :class:`mmseg.engine.SegVisualizationHook`.
    """

    drawn = 0
    """Pictures of the test so far."""

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[SegDataSample],
    ) -> None:
        """Draw the first image of every ``interval``-th batch."""
        step = runner.iter + batch_idx
        if self.draw and step % self.interval == 0:
            self._draw('val', outputs[0], step)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict,
        outputs: Sequence[SegDataSample],
    ) -> None:
        """Draw all images of a batch."""
        for sample in outputs if self.draw else ():
            self.drawn += 1
            self._draw('test', sample, self.drawn)

    def _draw(self, mode: str, sample: SegDataSample, step: int) -> None:
        self._visualizer.add_datasample(
            f'{mode}_{Path(sample.img_path).name}',
            read_as_loaded(sample, self.backend_args),
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            step=step,
        )
