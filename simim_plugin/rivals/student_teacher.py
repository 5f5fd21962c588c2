"""A student and its momentum copy, the teacher.

Shape key: B batch, E extra tokens (the cls token first), N patches, C
backbone channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from mmpretrain.models import BaseSelfSupervisor
from torch import Tensor

from ..errors import SimimError
from ..models.momentum_copy import MomentumCopy
from .moving import Moving


class StudentTeacher(BaseSelfSupervisor):
    """Base of the algorithms whose teacher follows the student.

    :class:`simim_plugin.engine.MomentumHook` moves the teacher, once per
    optimizer step, and with it the :class:`Moving` parts of the head.

    Args:
        backbone (dict): the student's encoder, a ``SiameseIMViT``, with a
            cls token where ``uses_cls_token`` is True.
        neck (dict): maps features (..., C) of the backbone to outputs.
        head (dict): the loss.
        **kwargs: see :class:`mmpretrain.models.BaseSelfSupervisor`.

    Raises:
        SimimError: if the backbone has no cls token and needs one.
    """

    uses_cls_token: ClassVar[bool] = True

    def __init__(
        self, backbone: dict, neck: dict, head: dict, **kwargs: Any
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **kwargs)
        if self.uses_cls_token and not self.backbone.with_cls_token:
            raise SimimError(
                f'{type(self).__name__} compares cls tokens, and its backbone '
                'has none; set model.backbone.with_cls_token to True.'
            )
        self.target = MomentumCopy(
            dict(backbone=self.backbone, neck=self.neck)
        )

    def student_tokens(self, view: Tensor) -> Tensor:
        """Return tokens (B, E + N, C) of a view (B, 3, H, W)."""
        (tokens,) = self.backbone(view)
        return tokens

    @torch.no_grad()
    def teacher_tokens(self, view: Tensor) -> Tensor:
        """Return the teacher's tokens (B, E + N, C) of a view."""
        (tokens,) = self.target['backbone'](view)
        return tokens

    def update_target(self, momentum: float) -> None:
        """Move every teacher parameter towards the student's, and what is
        moving in the head to what the last step has seen.

        Args:
            momentum (float): weight of the old teacher, 0 to 1.
        """
        self.target.follow(momentum)
        for part in self._moving():
            part.move()

    def forget_step(self) -> None:
        """Take back what a step that is skipped has seen."""
        for part in self._moving():
            part.forget()

    def init_weights(self) -> None:
        """Initialise the student, then copy it to the teacher."""
        super().init_weights()
        self.update_target(momentum=0.0)

    def compared(self, outputs: Any) -> Tensor:
        """Return vectors (B, K) of images, as the loss compares them.

        :class:`simim_plugin.engine.CollapseMonitor` measures their spread.

        Args:
            outputs: of the teacher's neck.
        """
        return outputs

    def _moving(self) -> list[Moving]:
        parts = self.head.modules()
        return [part for part in parts if isinstance(part, Moving)]
