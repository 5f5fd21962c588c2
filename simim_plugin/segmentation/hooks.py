"""Hooks of segmentation runs."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.models import SegTTAModel
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import HOOKS

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
        runner.model = SegTTAModel(module=unwrapped(runner.model))
