"""Hooks of segmentation runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

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
from ..pictures.distinct import names_in


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


@HOOKS.register_module()
class OneSizeHook(Hook):
    """Refuse an evaluation whose batches hold images of several sizes.

    MMSegmentation does not pad them to one size, since the windows of a
    sliding test would move.
    """

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Compare the images of a batch."""
        self._check('val', data_batch)

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Compare the images of a batch."""
        self._check('test', data_batch)

    def _check(self, part: str, data_batch: dict | None) -> None:
        images = (data_batch or {}).get('inputs', ())
        # With several scales, an item is the list of the views of one.
        sizes = {tuple(x.shape[1:]) for x in images if hasattr(x, 'shape')}
        if len(sizes) > 1:
            (height, width), (rows, columns) = sorted(sizes)[:2]
            raise SimimError(
                f'A batch of {part}_dataloader has images of {width} x '
                f'{height} and {columns} x {rows} pixels, after its pipeline; '
                f'set {part}_dataloader.batch_size to 1.'
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
    label maps are of the stored ones, and numbers the pictures of a test.
    With ``save_dir`` of the visualizer, which ``--show-dir`` sets, the
    pictures of a test have the names of
    :func:`simim_plugin.pictures.distinct.distinct_names` in that folder.
    Arguments are those of :class:`mmseg.engine.SegVisualizationHook`.
    """

    drawn = 0
    """Pictures of the test so far."""

    folder: str | None = None
    """Of the pictures of the test."""

    names: Mapping[str, str] = MappingProxyType({})
    """From the paths of the test's images to the names of pictures."""

    def before_test(self, runner: Runner) -> None:
        """Name the pictures, so that none replaces another."""
        given = runner.cfg.get('visualizer') or {}
        self.folder = given.get('save_dir')
        if self.draw and self.folder:
            self.names = names_in(runner.test_dataloader.dataset)

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
            name = f'val_{Path(outputs[0].img_path).name}'
            self._draw(name, outputs[0], step)

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
            path = sample.img_path
            name, file = f'test_{Path(path).name}', None
            if self.folder:
                name = self.names.get(path, Path(path).stem)
                file = str(Path(self.folder, f'{name}.png'))
            self._draw(name, sample, self.drawn, file)

    def _draw(
        self,
        name: str,
        sample: SegDataSample,
        step: int,
        file: str | None = None,
    ) -> None:
        self._visualizer.add_datasample(
            name,
            read_as_loaded(sample, self.backend_args),
            data_sample=sample,
            show=self.show,
            wait_time=self.wait_time,
            out_file=file,
            step=step,
        )
