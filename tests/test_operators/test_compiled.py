"""Our operators against mmcv's compiled ones, if installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
)
from torch import Tensor

from simim_plugin.operators.placing import COMPILED, NOT_AVAILABLE, Operators

from .test_boxes import drawn
from .test_deformable import GEOMETRIES, attended, operands
from .test_focal import inputs as logits_and_targets
from .test_regions import inputs as features_and_rois


def compiled(device: str):
    """Return mmcv's own module, or skip if it does not serve the device."""
    module = importlib.import_module(COMPILED)
    if isinstance(module, Operators):
        pytest.skip('mmcv has no compiled operators here')
    if device == 'cuda' and (
        module.get_compiling_cuda_version() == NOT_AVAILABLE
        or not torch.cuda.is_available()
    ):
        pytest.skip('no GPU, or the operators are for the CPU alone')
    return module


def boxes(device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for seed in range(20):
        b, s = (x.to(device) for x in drawn(seed, 100))
        # Boxes on a grid get equal scores by soft-NMS, in no fixed order.
        b += torch.rand(b.shape, generator=generator).to(device)
        for offset in (0, 1):
            found += ops.nms(b, s, 0.3, offset=offset)
            for method in ('naive', 'linear', 'gaussian'):
                found += ops.soft_nms(b, s, 0.3, 0.5, 0.1, method, offset)
            for mode in ('iou', 'iof'):
                found += [ops.bbox_overlaps(b, b[:7], mode, offset=offset)]
        dets = torch.cat([b, s[:, None]], 1)
        found += ops.nms_match(dets, 0.31)
    return found


def differentiated(function: Callable[..., Tensor], *tensors) -> list[Tensor]:
    """Return a value and its gradients by the floating tensors."""
    leaves = [
        x.detach().requires_grad_()
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for x in tensors
    ]
    value = function(*leaves)
    value.square().sum().backward()
    grads = [x.grad for x in leaves if isinstance(x, Tensor)]
    return [value, *(grad for grad in grads if grad is not None)]


def regions(device: str) -> list[Tensor]:
    found = []
    for seed in range(5):
        features, rois = (x.to(device) for x in features_and_rois(seed))
        for mode in ('avg', 'max'):
            for ratio in (0, 2):
                for aligned in (False, True):
                    found += differentiated(
                        ops.roi_align,
                        *(features, rois, (3, 2), 0.5, ratio, mode, aligned),
                    )
    return found


def convolutions(device: str) -> list[Tensor]:
    found = []
    for geometry in GEOMETRIES.values():
        o = {k: v.float().to(device) for k, v in operands(geometry).items()}
        found += differentiated(
            ops.deform_conv2d,
            *(o['input'], o['offset'], o['weight']),
            *geometry.values(),
        )
        found += differentiated(
            ops.modulated_deform_conv2d,
            *(o['input'], o['offset'], o['mask'], o['weight'], o['bias']),
            *geometry.values(),
        )
    return found


def pooled(device: str) -> list[Tensor]:
    features, rois = (x.float().to(device) for x in features_and_rois())
    return differentiated(ops.roi_pool, features, rois, (3, 2), 0.5)


def losses(device: str) -> list[Tensor]:
    logits, target, _ = (x.to(device) for x in logits_and_targets())
    found = []
    for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        found += differentiated(
            loss, logits.float(), target, 2.0, 0.25, None, 'mean'
        )
    return found


def attention(device: str) -> list[Tensor]:
    tensors = (x.float() if x.is_floating_point() else x for x in attended())
    return differentiated(
        MultiScaleDeformableAttnFunction.apply,
        *(x.to(device) for x in tensors),
        64,
    )


@pytest.mark.parametrize(
    ('case', 'device'),
    [
        (boxes, 'cpu'),
        (regions, 'cpu'),
        (convolutions, 'cpu'),
        # mmcv has the others on a GPU only.
        *(
            pytest.param(case, 'cuda', marks=pytest.mark.gpu)
            for case in (
                *(boxes, regions, convolutions),
                *(pooled, losses, attention),
            )
        ),
    ],
)
def test_equal(
    case: Callable[[str], list[Tensor]],
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for extension in (compiled(device), Operators()):
        for name, module in list(sys.modules.items()):
            if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
                monkeypatch.setattr(module, 'ext_module', extension)
        found.append(case(device))
    theirs, ours = found
    assert len(theirs) == len(ours)
    most = 0.0
    for a, b in zip(theirs, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        if a.numel():
            most = max(most, float((a - b).abs().max()))
    exact = np.mean(
        [bool(torch.equal(a, b)) for a, b in zip(*found, strict=True)]
    )
    print(f'{case.__name__}: {exact:.0%} equal, largest difference {most:g}')
