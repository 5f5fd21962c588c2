"""Hooks of segmentation runs."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.models import SegTTAModel
from mmseg.registry import HOOKS

from ..engine.unwrapping import unwrapped


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
