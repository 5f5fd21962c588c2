"""DINO (arXiv 2104.14294) and iBOT (arXiv 2111.07832).

Shape key: B batch, G global and V all crops of an image (the global ones
first), N patches, C backbone channels, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..errors import SimimError
from ..tensors import wide
from .distillation import (
    PrototypeHead,
    patch_distillation,
    sharpened,
    view_distillation,
)
from .mask_token import check_backbone
from .moving import Centre
from .student_teacher import StudentTeacher

MODELS.register_module(module=PrototypeHead)


@MODELS.register_module()
class DistillationHead(BaseModule):
    """Compare the student's outputs of all crops with the teacher's.

    Args:
        out_dims (int): K.
        num_global (int): G. Defaults to 2.
        student_temperature (float): above 0. Defaults to 0.1.
        teacher_temperature (float): above 0;
            :class:`simim_plugin.rivals.TemperatureHook` raises it. Defaults
            to 0.04.
        centre_momentum (float): 0 to 1. Defaults to 0.9.
        with_patches (bool): compare masked patches too, as iBOT does.
            Defaults to False.

    Raises:
        SimimError: for a temperature of 0 or less, or fewer than two
            outputs.
    """

    def __init__(
        self,
        out_dims: int,
        num_global: int = 2,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        centre_momentum: float = 0.9,
        with_patches: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ('student_temperature', student_temperature),
            ('teacher_temperature', teacher_temperature),
        ):
            if value <= 0:
                raise SimimError(
                    f'{name} of DistillationHead is {value}; set it above 0.'
                )
        if out_dims < 2:
            raise SimimError(
                f'out_dims of DistillationHead is {out_dims}; set it to at '
                'least 2.'
            )
        self.num_global = num_global
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.centre = Centre(out_dims, centre_momentum)
        self.patch_centre = None
        if with_patches:
            self.patch_centre = Centre(out_dims, centre_momentum)

    def loss(
        self,
        student: Tensor,
        teacher: Tensor,
        patches: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            student (Tensor): (V, B, K) outputs.
            teacher (Tensor): (G, B, K) outputs.
            patches (tuple, optional): outputs of student and teacher, each
                (G, B, N, K), and the mask (G, B, N).

        Returns:
            dict[str, Tensor]: ``loss``; with patches its two terms too.
        """
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = wide(student), wide(teacher)
            views = view_distillation(
                student,
                sharpened(
                    teacher, self.centre.value, self.teacher_temperature
                ),
                self.student_temperature,
            )
            self.centre.observe(teacher)
            if patches is None or self.patch_centre is None:
                return dict(loss=views)
            masked, whole, mask = patches
            whole = wide(whole)
            dense = patch_distillation(
                wide(masked),
                sharpened(
                    whole, self.patch_centre.value, self.teacher_temperature
                ),
                mask,
                self.student_temperature,
            )
            self.patch_centre.observe(whole)
        return dict(
            loss=views + dense,
            view_term=views.detach(),
            patch_term=dense.detach(),
        )


@MODELS.register_module()
class ViTDINO(StudentTeacher):
    """Predict the teacher's outputs of global crops from other crops.

    Args:
        **kwargs: see :class:`StudentTeacher`. The head has ``with_patches``
            as the method.

    Raises:
        SimimError: for a head of another ``with_patches``.
    """

    with_patches: ClassVar[bool] = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if (self.head.patch_centre is not None) != self.with_patches:
            raise SimimError(
                f'The loss of {type(self).__name__} has '
                f'{"" if self.with_patches else "no "}terms of patches; set '
                f'with_patches of model.head to {self.with_patches}.'
            )

    def compared(self, outputs: Tensor) -> Tensor:
        """Return centred outputs (G * B, K) of the cls tokens.

        Args:
            outputs (Tensor): (G * B, K), or (G * B, E + N, K) in iBOT.
        """
        if outputs.dim() == 3:
            outputs = outputs[:, 0]
        return outputs.float() - self.head.centre.value

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the loss of one step.

        Args:
            inputs (Sequence[Tensor]): V crops, each (B, 3, H, W), the global
                ones first.
            data_samples (Sequence[DataSample]): not used.

        Returns:
            dict[str, Tensor]: ``loss``.

        Raises:
            SimimError: if there is no pair of different crops.
        """
        _check_crops(inputs, self.head.num_global)
        whole = [*inputs[: self.head.num_global]]
        student = self.neck(self._cls_tokens(inputs))
        with torch.no_grad():
            tokens = self.teacher_tokens(torch.cat(whole))[:, 0]
            teacher = self.target['neck'](tokens)
        batch = len(inputs[0])
        return self.head.loss(
            student.unflatten(0, (-1, batch)),
            teacher.unflatten(0, (-1, batch)),
        )

    def _cls_tokens(self, crops: Sequence[Tensor]) -> Tensor:
        """Return cls tokens (V * B, C), crops of one size at a time."""
        sizes = groupby(crops, key=lambda crop: crop.shape[-2:])
        return torch.cat(
            [
                self.student_tokens(torch.cat([*same]))[:, 0]
                for _, same in sizes
            ]
        )


@MODELS.register_module()
class ViTIBOT(ViTDINO):
    """DINO, and the teacher's outputs of the patches that are masked.

    The student sees a learned token in their place. The head has
    ``with_patches=True``. Cls token and patches share the neck.

    Args:
        **kwargs: see :class:`StudentTeacher`. The backbone is a
            :class:`MaskTokenViT`.

    Raises:
        SimimError: for another backbone.
    """

    with_patches: ClassVar = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_backbone('ViTIBOT', self.backbone)
        self.mask_token = nn.Parameter(
            torch.zeros(1, 1, self.backbone.embed_dims)
        )

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Sequence[DataSample]
    ) -> dict[str, Tensor]:
        """Compute the loss of one step.

        Args:
            inputs (Sequence[Tensor]): V crops, each (B, 3, H, W), the global
                ones first.
            data_samples (Sequence[DataSample]): with ``mask``, (G, N), True
                on masked patches of the global crops.

        Returns:
            dict[str, Tensor]: ``loss``, ``view_term`` and ``patch_term``.

        Raises:
            SimimError: if there is no pair of different crops.
        """
        _check_crops(inputs, self.head.num_global)
        count, batch = self.head.num_global, len(inputs[0])
        crops = torch.cat([*inputs[:count]])  # (G * B, 3, H, W)
        masks = [torch.as_tensor(sample.mask) for sample in data_samples]
        mask = torch.stack(masks, dim=1).bool().to(crops.device)  # (G, B, N)
        extra = self.backbone.num_extra_tokens
        (tokens,) = self.backbone(
            crops, replaced=(mask.flatten(0, 1), self.mask_token)
        )
        student = [tokens[:, 0]]
        if len(inputs) > count:
            student.append(self._cls_tokens(inputs[count:]))
        with torch.no_grad():
            whole = self.target['neck'](self.teacher_tokens(crops))
        shape = (count, batch)
        patches = (
            self.neck(tokens[:, extra:]).unflatten(0, shape),
            whole[:, extra:].unflatten(0, shape),
            mask,
        )
        return self.head.loss(
            self.neck(torch.cat(student)).unflatten(0, (-1, batch)),
            whole[:, 0].unflatten(0, shape),
            patches,
        )


def _check_crops(crops: Sequence[Tensor], num_global: int) -> None:
    if len(crops) < max(2, num_global):
        raise SimimError(
            f'An image has {len(crops)} crops, and the student compares each '
            f'with {num_global} global ones; set number in the crops of '
            f'MultiCropViews to {max(2, num_global)} or more together.'
        )
